"""The figure of an `ErrorReport`. matplotlib is imported when a figure is asked for, and no global state of it is
used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from narrowgauge.numerics.errors.histograms import Histograms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from narrowgauge.numerics.errors.report import ErrorReport

GREY, BLUE, RED, GREEN = "0.55", "tab:blue", "tab:red", "tab:green"


def draw_report(report: ErrorReport, path: str | Path | None = None) -> Figure:
    """The four panels that `ErrorReport.draw` describes; ImportError without matplotlib, ValueError without data."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw: matplotlib is not installed; pip install 'narrowgauge[plots]'") from error
    data = report.histograms
    if data is None:
        raise ValueError("histograms: the report holds none, accepted: one of `compare` or of to_dict(histograms=True)")
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    _error_against_value(panels[0, 0], figure, data)
    _magnitudes(panels[0, 1], data)
    _codes(panels[1, 0], report, data)
    _relative(panels[1, 1], report, data)
    figure.suptitle(_title(report), fontsize=11)
    if path is not None:
        figure.savefig(path, format="png", dpi=120)
    return figure


def _title(report: ErrorReport) -> str:
    name = f"{report.scheme}: " if report.scheme else ""
    return (
        f"{name}{report.count:,} elements, SQNR {report.sqnr_db:.2f} dB, gain {report.gain:.5f}, "
        f"bias {report.bias:.2g} rms, created: {report.nan_created} NaN, {report.inf_created} Inf"
    )


def _error_against_value(axes: Axes, figure: Figure, data: Histograms) -> None:
    from matplotlib.colors import LogNorm

    counts = np.array(data.value_error, dtype=np.float64)
    axes.set(
        title="error against value (a sample; far values at the margins)", xlabel="value", ylabel="actual − reference"
    )
    if data.value_limit == 0 or not counts.any():
        _nothing(axes, "no finite value but zero")
        return
    limit = data.error_limit if data.error_limit > 0 else 1.0
    extent = (-data.value_limit, data.value_limit, -limit, limit)
    norm = LogNorm(vmin=1, vmax=max(float(counts.max()), 2.0))
    shown = np.ma.masked_equal(counts, 0)
    image = axes.imshow(shown, extent=extent, origin="lower", aspect="auto", norm=norm, interpolation="nearest")
    axes.axhline(0, color=GREY, linewidth=0.6)
    figure.colorbar(image, ax=axes, label="elements", pad=0.01)


def _magnitudes(axes: Axes, data: Histograms) -> None:
    axes.set(title="magnitudes: how many in each binade", xlabel="log2 |value|", ylabel="elements")
    if not data.reference:
        _nothing(axes, "no finite value but zero")
        return
    edges = data.first_binade + np.arange(len(data.reference) + 1)
    axes.stairs(data.reference, edges, fill=True, color=GREY, alpha=0.5, label="reference")
    axes.stairs(data.actual, edges, color=BLUE, linewidth=1.4, label="actual")
    for counts, color, label in (
        (data.underflowed, RED, "reference that became 0"),
        (data.clipped, GREEN, "reference beyond the format"),
    ):
        if sum(counts):
            axes.stairs(counts, edges, fill=True, color=color, alpha=0.6, label=f"{label}: {sum(counts):,}")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0, top=30 * max((*data.reference, *data.actual)))
    axes.set_xlim(edges[0] - 0.5, edges[-1] + 0.5)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def _codes(axes: Axes, report: ErrorReport, data: Histograms) -> None:
    axes.set(title="code occupancy", xlabel="code, in order of its value", ylabel="elements")
    if not data.code_counts:
        _nothing(axes, "without a scheme there are no codes")
        return
    counts = np.array(data.code_counts)
    axes.stairs(counts, np.arange(len(counts) + 1), fill=True, color=BLUE)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    places = np.unique(np.linspace(0, len(counts) - 1, 7).round().astype(int))
    axes.set_xticks(places + 0.5, [f"{data.code_values[place] + 0.0:.3g}" for place in places])
    axes.set_xlim(0, len(counts))
    axes.set_xlabel("code, in order of its value (ticks: the value)")
    if report.code_entropy_bits is not None:
        title = f"code occupancy: {report.codes_used} of {report.codes_available}, {report.code_entropy_bits:.2f} bits"
        axes.set_title(title)


def _relative(axes: Axes, report: ErrorReport, data: Histograms) -> None:
    axes.set(title="relative error against magnitude", xlabel="log2 |value|", ylabel="|error| / |value|")
    rms = np.array(data.relative_rms)
    centres = data.first_binade + np.arange(len(rms)) + 0.5
    kept = np.isfinite(rms) & (rms > 0)
    if not kept.any():
        _nothing(axes, "no error")
        return
    axes.plot(centres[kept], rms[kept], "o-", color=BLUE, markersize=3, linewidth=1, label="rms in each binade")
    for name, style in (("relative_p50", ":"), ("relative_p99", "--")):
        level = getattr(report, name)
        if np.isfinite(level) and level > 0:
            axes.axhline(level, color=GREY, linestyle=style, linewidth=0.9, label=f"{name[9:]} of all: {level:.2g}")
    axes.set_yscale("log")
    axes.grid(which="major", color="0.9", linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)


def _nothing(axes: Any, reason: str) -> None:
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes, color=GREY)
    axes.set(xticks=[], yticks=[])
