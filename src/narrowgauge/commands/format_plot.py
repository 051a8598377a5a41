"""A picture of one number format: where its values lie, how far apart they are, and how well they hold data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from narrowgauge.commands.format_facts import element_of, layout
from narrowgauge.commands.format_sqnr import sqnr_table
from narrowgauge.commands.output import number
from narrowgauge.formats import get

MOST_TICKS = 4096
"""Values drawn one by one on the number line."""
BLUE, ORANGE, GRAY = "#2a6f97", "#d1495b", "#8a8f98"


def draw_format(name: str, path: str | Path) -> Path:
    """Writes the figure (PNG, SVG or PDF by the ending) and returns its path. ValueError without matplotlib, and for
    formats of more than 16 bits, whose values are too many to draw."""
    element = element_of(name)
    if element.bits > 16:
        raise ValueError(f"--plot: {name} has codes of {element.bits} bits; accepted: at most 16")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot: needs matplotlib, which is not installed: pip install 'narrowgauge[plots]'") from None
    values = element.values()
    levels = np.unique(values[np.isfinite(values) & (values >= element.min)])
    figure = Figure(figsize=(10, 9.5), layout="constrained")
    axes = figure.subplots(3, 1, height_ratios=(1, 2, 2.2))
    figure.suptitle(f"{get(name).name}: {layout(name)}", fontsize=11, wrap=True)
    _line(axes[0], levels)
    _spacing(axes[1], levels)
    _sqnr(axes[2], sqnr_table(get(name)))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)
    return target


def _line(axis: Any, levels: np.ndarray) -> None:
    """Every value as a tick, on a linear axis; of very many, those that lie apart on paper."""
    shown = levels if levels.size <= MOST_TICKS else levels[np.linspace(0, levels.size - 1, MOST_TICKS).astype(int)]
    axis.vlines(shown, 0, 1, color=BLUE, linewidth=0.6 if shown.size > 64 else 1.4)
    if shown.size <= 20:
        for value in shown:
            axis.text(value, 1.08, number(float(value), 3), ha="center", va="bottom", fontsize=7, rotation=45)
    axis.set(ylim=(0, 1.0 if shown.size > 20 else 1.6), yticks=[], xlabel="value (linear axis)")
    axis.set_title(f"{levels.size} values, {number(float(levels[0]))} to {number(float(levels[-1]))}", fontsize=9)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)


def _spacing(axis: Any, levels: np.ndarray) -> None:
    """Half the distance to the next value, relative to it: the largest relative error of rounding to nearest."""
    positive = levels[levels > 0]
    axis.set(xlabel="magnitude", ylabel="largest relative error, %")
    axis.set_title("relative error of rounding to nearest, by magnitude", fontsize=9)
    if positive.size < 2:
        axis.text(0.5, 0.5, "fewer than two positive values", ha="center", transform=axis.transAxes, color=GRAY)
        return
    below, above = positive[:-1], positive[1:]
    error = 100 * (above - below) / (above + below)
    axis.step(below, error, where="post", color=BLUE, linewidth=1.2)
    axis.plot(below, error, ".", color=BLUE, markersize=3)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_ylim(error.min() / 2, max(110, 3 * error.max()))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.grid(True, which="major", color="#e3e5e8", linewidth=0.6)
    for text, place, align in (("smallest", positive[0], "left"), ("largest", positive[-1], "right")):
        axis.axvline(place, color=ORANGE, linewidth=0.8, linestyle=":")
        axis.annotate(f"{text} {number(float(place))}", (place, 0.94), xycoords=("data", "axes fraction"), fontsize=8,
                      color=ORANGE, xytext=(5 if align == "left" else -5, 0), textcoords="offset points",
                      ha=align, va="top")  # fmt: skip


def _sqnr(axis: Any, table: dict[str, dict[str, float]]) -> None:
    """Bars: distributions side by side, one colour for each scheme."""
    labels = list(next(iter(table.values()), {}))
    colours = ("#2a6f97", "#61a5c2", "#a9d6e5", "#f4a259", "#d1495b")
    width = 0.8 / max(len(labels), 1)
    for number_, label in enumerate(labels):
        places = np.arange(len(table)) + (number_ - (len(labels) - 1) / 2) * width
        heights = [np.clip(row[label], -10, 160) for row in table.values()]
        bars = axis.bar(places, heights, width * 0.92, label=label, color=colours[number_ % len(colours)])
        axis.bar_label(bars, labels=[f"{height:.1f}" for height in heights], fontsize=7, padding=2)
    axis.set_xticks(range(len(table)), list(table))
    axis.set(ylabel="SQNR, dB (higher is better)")
    axis.margins(y=0.12)
    axis.set_title("signal to quantisation noise of data with standard deviation 1, by scale", fontsize=9, pad=26)
    axis.legend(fontsize=8, ncols=max(len(labels), 1), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for side in ("right", "top"):
        axis.spines[side].set_visible(False)
