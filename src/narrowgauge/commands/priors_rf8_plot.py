"""The picture of RF8 beside other formats: signal to quantisation noise by shape and scaling, and what is flushed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrowgauge.priors.rf8_compare import Comparison

TITLES = {"tensor": "one scale for the tensor", "row": "a scale for each row", "1x128": "a scale for 128 neighbours",
          "none": "no scale"}  # fmt: skip
COLOURS = {
    "rf8": "#c1121f", "rf8_nearest": "#e36414", "rf8_floor": "#b08968", "rf8_floor_log": "#ddb892", "e4m3fn": "#1d3557",
    "e5m2": "#457b9d", "int8": "#2a9d8f", "hif8": "#8d5bb5", "posit8es1": "#6c757d", "posit8es2": "#adb5bd",
}  # fmt: skip
LOWEST_DB = 5.0


def draw_comparison(by_shape: Sequence[Comparison], by_std: Sequence[Comparison], path: str | Path) -> Path:
    """Writes the figure (PNG, SVG or PDF by the ending) and returns its path. ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot: needs matplotlib, which is not installed: pip install 'narrowgauge[plots]'") from None
    figure = Figure(figsize=(14, 8.5), layout="constrained")
    axes = figure.subplots(2, 3)
    figure.suptitle("RF8 (red) beside other 8-bit formats on generalized Gaussian weights", fontsize=12)
    by_scaling = {s: [row for row in by_shape if row.scaling == s] for s in TITLES}
    for axis, (scaling, rows) in zip((*axes[0], axes[1][0]), by_scaling.items(), strict=True):
        std = f", standard deviation {rows[0].std:g}" if rows and scaling == "none" else ""
        _panel(axis, rows, "shape", "sqnr_db", TITLES[scaling] + std)
    laplace = [row for row in by_std if row.shape == min((r.shape for r in by_std), default=0.0)]
    title = f"no scale, shape {laplace[0].shape:g}, by standard deviation" if laplace else "no scale"
    _panel(axes[1][1], laplace, "std", "sqnr_db", title)
    axes[1][1].set_xscale("log", base=2)
    flushed = by_scaling["tensor"] or by_scaling["none"]
    _panel(axes[1][2], flushed, "shape", "flushed", "share of the weights flushed to zero, one scale for the tensor")
    axes[1][2].set_yscale("log")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _panel(axis: Any, rows: Sequence[Comparison], x: str, y: str, title: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set(
        xlabel="shape ν" if x == "shape" else "standard deviation", ylabel="SQNR, dB" if y == "sqnr_db" else "share"
    )
    axis.grid(True, color="#e3e5e8", linewidth=0.6)
    for name in dict.fromkeys(row.format for row in rows):
        line = [row for row in rows if row.format == name]
        if y == "flushed" and not any(row.flushed > 0 for row in line):
            continue
        values = [getattr(row, y) if y != "flushed" or row.flushed > 0 else float("nan") for row in line]
        axis.plot([getattr(row, x) for row in line], values, label=name, color=COLOURS.get(name),
                  linewidth=2.6 if name == "rf8" else 1.4, linestyle="--" if name.startswith("rf8_") else "-",
                  marker=".", markersize=4)  # fmt: skip
    if y == "sqnr_db" and rows:
        axis.set_ylim(bottom=max(LOWEST_DB, min(row.sqnr_db for row in rows) - 1))
