"""The picture of the suite `recipes`: every gap with its error and the limits, and the training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from narrowgauge.bench.recipes_report import (
    LIMIT_PERCENT,
    NARROW_LIMIT_PERCENT,
    WIDE_BITS,
    Comparison,
    by_gap,
    noise_floor,
)
from narrowgauge.bench.recipes_run import BF16, RecipeResult, RecipeSettings
from narrowgauge.bench.training_run import BASELINE

LINEAR_PERCENT = 1.0
"""Gaps up to here are drawn to scale, larger ones on a logarithmic axis."""
COLORS = {"baseline": "0.25", "8 bits and more": "C0", "5 to 7 bits": "C2", "4 bits and fewer": "C1"}
SMALL_FIGURE, ROW_INCHES = 4.5, 0.19
JOINED = 4


def kind_of(c: Comparison) -> str:
    """Which color: by the narrowest operand."""
    if c.limit_percent is None:
        return "baseline"
    narrowest = min(c.bits.values(), default=WIDE_BITS)
    if narrowest >= WIDE_BITS:
        return "8 bits and more"
    return "5 to 7 bits" if narrowest > 4 else "4 bits and fewer"


def plot(comparisons: Sequence[Comparison], results: Sequence[RecipeResult], settings: RecipeSettings,
         path: Path) -> Path:  # fmt: skip
    """Gaps to fp32, sorted, with standard errors, limits and noise; beside them the mean training curves over the
    seeds. PNG, SVG or PDF by the ending. ImportError without matplotlib; ValueError where nothing can be compared yet.
    """
    from matplotlib.figure import Figure

    rows = [c for c in by_gap(comparisons) if c.recipe != BASELINE]
    if not any(c.mean_gap_percent is not None for c in rows):
        raise ValueError("comparisons: no finished run beside one of fp32, nothing can be compared")
    figure = Figure(figsize=(13, max(SMALL_FIGURE, ROW_INCHES * len(rows) + 1.5)), layout="constrained")
    gaps, curves = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_gaps(gaps, rows, noise_floor(comparisons))
    _draw_curves(curves, comparisons, results)
    seeds = max(len(c.seeds) for c in rows)
    figure.suptitle(f"Llama, {settings.num_parameters():,} parameters, {settings.steps} steps of AdamW; seeds: {seeds}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _smoothed(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[int], list[float]]:
    """Means of JOINED points each, at the step of the last one: batches differ more than recipes do."""
    starts = range(0, len(steps), JOINED)
    return [steps[min(s + JOINED, len(steps)) - 1] for s in starts], [fmean(losses[s : s + JOINED]) for s in starts]


def _draw_gaps(axes: Any, rows: Sequence[Comparison], noise: Mapping[str, float]) -> None:
    if noise:
        reach = max(noise.values())
        axes.axvspan(-reach, reach, color="0.9", zorder=0, label=f"chance, ± {reach:.2g} %")
    for limit, style in ((LIMIT_PERCENT, "--"), (NARROW_LIMIT_PERCENT, ":")):
        axes.axvline(limit, color="0.4", linestyle=style, linewidth=1, label=f"limit {limit:g} %")
    axes.axvline(0, color="0.4", linewidth=0.8)
    for place, c in enumerate(rows):
        color = COLORS[kind_of(c)]
        if c.mean_gap_percent is None:
            axes.annotate("diverged", (1, place), (-4, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", va="center", fontsize=7, color=color)  # fmt: skip
        else:
            axes.errorbar(c.mean_gap_percent, place, xerr=c.standard_error_percent, fmt="o", color=color, markersize=4,
                          capsize=2, elinewidth=1)  # fmt: skip
    for kind in dict.fromkeys(kind_of(c) for c in rows):
        axes.plot([], [], "o", color=COLORS[kind], markersize=4, label=kind)
    axes.set_xscale("symlog", linthresh=LINEAR_PERCENT)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(rows)), [c.recipe for c in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("final validation loss above fp32's, % (mean and standard error over the seeds)")
    axes.grid(axis="x", color="0.92")
    axes.legend(frameon=True, fontsize=7, loc="upper right")


def _draw_curves(axes: Any, comparisons: Sequence[Comparison], results: Sequence[RecipeResult]) -> None:
    for c in comparisons:
        if c.mean_gap_percent is None:
            continue
        own = [r for r in results if r.run.recipe == c.recipe and r.run.seed in c.seeds]
        mean = [fmean(at) for at in zip(*(r.train_curve[1] for r in own), strict=True)]
        steps, losses = _smoothed(own[0].train_curve[0], mean)
        is_baseline = c.recipe in (BASELINE, BF16)
        axes.plot(steps, losses, color=COLORS[kind_of(c)], linewidth=1.6 if is_baseline else 0.7,
                  alpha=1 if is_baseline else 0.6, zorder=3 if is_baseline else 2,
                  linestyle="--" if c.recipe == BF16 else "-", label=c.recipe if is_baseline else None)  # fmt: skip
    axes.set(xlabel="step", ylabel="training loss, nats per byte (mean of the seeds)", yscale="log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.grid(color="0.92", which="both")
    axes.legend(frameon=False)
