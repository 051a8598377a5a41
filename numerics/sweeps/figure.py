"""A sweep as a figure for papers and slides; needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from narrowgauge.numerics.sweeps.charts import drawn
from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.svg import shorten
from narrowgauge.numerics.sweeps.text import decibels, schemes_by_bits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".pdf", ".svg")
ROWS = 40
SPAN = 20.0
DOTS_PER_INCH = 150


def save_figure(result: SweepResult, path: str | Path) -> None:
    """Heat map of the SQNR (the 40 hardest tensors at most), and the mean SQNR against bits per value.

    ImportError with the way out where matplotlib is not installed; ValueError for another suffix than .png, .pdf
    and .svg.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path: got {path.name}, accepted: names that end in {', '.join(SUFFIXES)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figure: matplotlib is not installed; pip install 'narrowgauge[plots]', or use html(path), which does "
            "without it"
        ) from error
    schemes, names = schemes_by_bits(result), result.worst_first()[:ROWS]
    width, height = 2.5 + 0.62 * len(schemes), 1.6 + 0.26 * len(names)
    figure = Figure(figsize=(width + 5.5, max(height, 4.0)), layout="constrained")
    heat, front = figure.subplots(1, 2, width_ratios=(width, 5.5))
    _heat(heat, result, schemes, names)
    _front(front, result, schemes)
    figure.suptitle(result.title)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _heat(axes: Axes, result: SweepResult, schemes: list[str], names: tuple[str, ...]) -> None:
    rows = [[result.row(name, scheme) for scheme in schemes] for name in names]
    values = [[math.nan if row is None else drawn(row.sqnr_db) for row in line] for line in rows]
    low, high = result.target_db - SPAN, result.target_db + SPAN
    axes.imshow(values, cmap="PuOr", vmin=low, vmax=high, aspect="auto", alpha=0.6)
    for y, line in enumerate(rows):
        for x, row in enumerate(line):
            text = "–" if row is None else decibels(row.sqnr_db)
            axes.text(x, y, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(schemes)), schemes, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [shorten(name, 34) for name in names], fontsize=8)
    axes.set_title(f"SQNR, dB (white: {result.target_db:g} dB)", fontsize=9)


def _front(axes: Axes, result: SweepResult, schemes: list[str]) -> None:
    for index, scheme in enumerate(schemes):
        values = [drawn(row.sqnr_db) for row in result.rows if row.scheme == scheme]
        mean = fmean(values)
        error = [[mean - min(values)], [max(values) - mean]]
        marker = "osD^v"[index % 5]
        axes.errorbar(result.bits(scheme), mean, error, fmt=marker, ms=5, lw=0.8, color=f"C{index % 10}", label=scheme)
    axes.set(xlabel="bits per value, scales included", ylabel="SQNR, dB (mean, worst and best tensor)")
    axes.set_xscale("log", base=2)
    first, last = axes.get_xlim()
    ticks = [bits for bits in (2, 3, 4, 6, 8, 12, 16, 24, 32) if first <= bits <= last]
    axes.set_xticks(ticks, [str(bits) for bits in ticks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="upper left", ncols=1 if len(schemes) < 12 else 2)
