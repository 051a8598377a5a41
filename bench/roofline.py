"""Roofline of a suite: how fast each row works, against the roofs that were measured in the same run.

A row that does F operations and has to move B bytes at least has the intensity I = F / B. It can reach

    min(peak, I · bandwidth)

and the ridge, peak / bandwidth, is the intensity at which both roofs meet: to its left memory is the limit, to its
right arithmetic. Source: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52 (2009) 65.

Rows give the figures `intensity_flop_per_byte` and `tflop_per_s`. Of a suite's ceilings those called `…_gb_per_s` are
slopes, those called `…_tflop_per_s` are flat roofs.

    python -m narrowgauge.bench.roofline results.json FOLDER     # roofline-SUITE.png of each suite that has one
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from narrowgauge.bench.report import SuiteResult
from narrowgauge.bench.result_files import read_results

INTENSITY, RATE = "intensity_flop_per_byte", "tflop_per_s"
BANDWIDTH, PEAK = "_gb_per_s", "_tflop_per_s"
MARGIN = 4.0
"""By which factor the axes go beyond points and ridges."""
LABEL_INCHES, SMALL_FIGURE = 0.19, 5.0
COLORS = ("#2a6f97", "#d1495b", "#3a7d44", "#f4a259", "#7b5ea7", "#61a5c2", "#8c564b", "#4d4d4d")

Point = tuple[str, float, float]


def roofs(ceilings: Mapping[str, float], ending: str) -> dict[str, float]:
    """The ceilings whose name has the ending, by what stands before it."""
    return {name.removesuffix(ending): value for name, value in ceilings.items() if name.endswith(ending)}


def attainable(intensity: float, gb_per_s: float, tflop_per_s: float) -> float:
    """min(peak, intensity · bandwidth) in TFLOP/s."""
    return min(tflop_per_s, intensity * gb_per_s / 1e3)


def ridge(gb_per_s: float, tflop_per_s: float) -> float:
    """The intensity in FLOP/byte at which both roofs meet."""
    return 1e3 * tflop_per_s / gb_per_s


def points(result: SuiteResult) -> list[Point]:
    """(name, intensity, TFLOP/s) of the rows that have both figures, above zero."""
    found = ((row.name, row.figures.get(INTENSITY, 0.0), row.figures.get(RATE, 0.0)) for row in result.rows)
    return [point for point in found if point[1] > 0 and point[2] > 0]


def plot(result: SuiteResult, path: str | Path) -> Path:
    """Draws the roofline, log-log, every row a point; PNG, SVG or PDF by the ending. Returns the path.

    ValueError without matplotlib, for other endings, and where rows or ceilings lack what it takes.
    """
    target = Path(path)
    if target.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot: accepted are files that end in .png, .svg or .pdf, got {str(path)!r}")
    shown, slopes = points(result), roofs(result.ceilings, BANDWIDTH)
    if not shown or not slopes:
        lacking = f"rows with {INTENSITY} and {RATE}" if not shown else "a measured bandwidth"
        raise ValueError(f"--plot: the suite {result.suite} has no roofline, as it lacks {lacking}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot: needs matplotlib, which is not installed: pip install 'narrowgauge[plots]'") from None
    height = max(SMALL_FIGURE, LABEL_INCHES * len(shown) + 1.6)
    figure = Figure(figsize=(11.5, height), layout="constrained")
    axes = figure.subplots()
    _draw_roofs(axes, shown, slopes, roofs(result.ceilings, PEAK))
    _draw_points(axes, shown, LABEL_INCHES / (height - 1.6))
    axes.set_title(f"{result.suite}: rows against the roofs measured in the same run", fontsize=11)
    figure.supxlabel(str(result.machine), fontsize=7, color="0.4")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)
    return target


def _draw_roofs(axes: Any, shown: Sequence[Point], slopes: Mapping[str, float], peaks: Mapping[str, float]) -> None:
    fastest, highest = max(slopes.values()), max(peaks.values(), default=0.0)
    corners = [ridge(fastest, peak) for peak in peaks.values()]
    places = [intensity for _, intensity, _ in shown] + corners
    left, right = min(places) / MARGIN, max(places) * MARGIN
    top = highest or attainable(right, fastest, float("inf"))
    bottom = min([rate for _, _, rate in shown] + [left * min(slopes.values()) / 1e3])
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom / 1.5, 1.8 * top))
    for name, slope in slopes.items():
        end = min(right, ridge(slope, highest)) if highest else right
        axes.plot((left, end), (left * slope / 1e3, end * slope / 1e3), color="0.25", linewidth=1.4)
        middle = (left * end) ** 0.5
        axes.annotate(f"{name}: {slope:,.4g} GB/s", (middle, middle * slope / 1e3), xytext=(-6, 4), ha="right",
                      textcoords="offset points", fontsize=8, color="0.25")  # fmt: skip
    for name, peak in peaks.items():
        start = ridge(fastest, peak)
        axes.plot((start, right), (peak, peak), color="0.25", linewidth=1.4)
        axes.plot((start, start), (bottom / 1.5, peak), color="0.7", linewidth=0.8, linestyle=":")
        axes.annotate(f"{name}: {peak:,.4g} TFLOP/s, ridge at {start:,.3g} FLOP/byte", (right, peak), xytext=(-4, 4),
                      textcoords="offset points", ha="right", fontsize=8, color="0.25")  # fmt: skip
    axes.set(xlabel="intensity, FLOP / byte that has to be moved", ylabel="TFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color="0.93", which="major")


def _draw_points(axes: Any, shown: Sequence[Point], gap: float) -> None:
    """Every row with its name at the right edge, from top to bottom as the points lie, joined by a thin line."""
    ordered = sorted(shown, key=lambda point: -point[2])
    to_axes = axes.transScale + axes.transLimits
    heights = [float(to_axes.transform((intensity, rate))[1]) for _, intensity, rate in ordered]
    for number, ((name, intensity, rate), height) in enumerate(zip(ordered, spaced(heights, gap), strict=True)):
        color = COLORS[number % len(COLORS)]
        axes.plot(intensity, rate, "o", color=color, markersize=5, zorder=3)
        axes.annotate(f"{name}  {rate:.3g}", (intensity, rate), xytext=(1.015, height), textcoords="axes fraction",
                      va="center", fontsize=7.5, color=color, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "relpos": (0, 0.5)})  # fmt: skip


def spaced(heights: Sequence[float], gap: float) -> list[float]:
    """Descending heights in [0, 1], moved as little as a sweep down and one up can so that they are `gap` apart and end
    above 0."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - gap) if placed else min(height, 1.0))
    lowest = 0.0
    for index in reversed(range(len(placed))):
        placed[index] = max(placed[index], lowest)
        lowest = placed[index] + gap
    return placed


def merged(results: Sequence[SuiteResult]) -> list[SuiteResult]:
    """One result for each suite, with the rows of all and the highest ceilings."""
    suites: dict[str, SuiteResult] = {}
    for result in results:
        before = suites.get(result.suite)
        if before is not None:
            names = {**before.ceilings, **result.ceilings}
            highest = {n: max(r.ceilings.get(n, 0.0) for r in (before, result)) for n in names}
            result = replace(result, rows=[*before.rows, *result.rows], ceilings=highest)
        suites[result.suite] = result
    return list(suites.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring."""
    words = sys.argv[1:] if argv is None else list(argv)
    if len(words) != 2:
        print("usage: python -m narrowgauge.bench.roofline RESULTS.json FOLDER", file=sys.stderr)
        return 2
    for result in merged(read_results(words[0])):
        if points(result) and roofs(result.ceilings, BANDWIDTH):
            print(plot(result, Path(words[1]) / f"roofline-{result.suite}.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
