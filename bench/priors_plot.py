"""The pictures of the pipeline of priors (loss over size of the files) and of its effects (checks with intervals)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from narrowgauge.bench.priors_effects import Check, Finding, describe
from narrowgauge.bench.priors_pipeline import BASELINE, PIPELINE, Row
from narrowgauge.bench.priors_run import CURVES, PipelineResult, PipelineRun
from narrowgauge.bench.priors_stages import Form
from narrowgauge.train import NOT_SHOWN, OPPOSITE, SHOWN

KIND_COLORS = {BASELINE: "0.35", PIPELINE: "C3"}
MARKERS = {Form.FP32: "s", Form.FP16: "D", Form.E4M3: "^", Form.STEP: "o", Form.RF8: "*", Form.RF8_ROW: "P"}
VERDICT_COLORS = {SHOWN: "C2", NOT_SHOWN: "C1", OPPOSITE: "C3", "": "0.5"}
CHECK_INCHES = 0.26


def plot_pipeline(rows: Sequence[Row], results: Sequence[PipelineResult], path: Path) -> Path:
    """Loss over bits of the file for each parameter, from fine-tuning on; beside it the rounding curves of the last
    stages, means over the seeds. PNG, SVG or PDF by the ending. ImportError without matplotlib; ValueError where
    nothing is finished."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.stage.state not in ("init", "trained")]
    if not shown:
        raise ValueError("rows: got none of a fine-tuned stage, nothing can be drawn")
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    files, rounding = figure.subplots(1, 2)
    for row in shown:
        files.plot(row.file_bits, row.stage.loss, MARKERS[Form(row.stage.form)], color=KIND_COLORS[row.run],
                   markerfacecolor="none" if row.stage.state == "deepshape" else None, markersize=7)  # fmt: skip
    for kind in dict.fromkeys(row.run for row in shown):
        files.plot([], [], "o", color=KIND_COLORS[kind], label=kind)
    for form in dict.fromkeys(row.stage.form for row in shown):
        files.plot([], [], MARKERS[Form(form)], color="0.6", label=form)
    files.plot([], [], "o", color=KIND_COLORS[PIPELINE], markerfacecolor="none", label="after DeepShape")
    files.set_xscale("log", base=2)
    files.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    files.set(xlabel="bits of the file per parameter", ylabel="validation loss, nats per byte")
    _draw_curves(rounding, results)
    for axes in (files, rounding):
        axes.grid(color="0.92")
        axes.legend(frameon=False, fontsize=8)
    return _saved(figure, path)


def _draw_curves(axes: Any, results: Sequence[PipelineResult]) -> None:
    """Loss over entropy of weights rounded to coarser and coarser steps."""
    arms: dict[PipelineRun, list[PipelineResult]] = {}
    for result in results:
        if result.stages:
            arms.setdefault(result.run.arm, []).append(result)
    lowest, highest = [], []
    for place, (arm, own) in enumerate(arms.items()):
        for name in CURVES:
            points = [
                tuple(map(fmean, zip(*at, strict=True))) for at in zip(*(r.curves[name] for r in own), strict=True)
            ]
            axes.plot([p[2] for p in points], [p[1] for p in points], marker=".", color=f"C{place}",
                      linestyle="--" if name == CURVES[0] else "-", label=f"{describe(arm)}, {name}")  # fmt: skip
            lowest.append(min(p[1] for p in points))
            highest.append(points[0][1])
    if lowest:
        span = max(highest) - min(lowest)
        axes.set_ylim(min(lowest) - 0.2 * span - 0.005, max(highest) + 2 * span + 0.05)
    axes.set(xlabel="entropy per parameter of the rounded matrices, bits", ylabel="validation loss, nats per byte")


def plot_effects(findings: Sequence[Finding], path: Path) -> Path:
    """Every check with its interval and limit. ImportError without matplotlib; ValueError without findings."""
    from matplotlib.figure import Figure

    if not findings:
        raise ValueError("findings: got none, at least two seeds of a run and its control have to be finished")
    lines = [(finding, check) for finding in findings for check in finding.checks]
    figure = Figure(figsize=(12, 1.5 + CHECK_INCHES * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, (_, check) in enumerate(lines):
        _draw_check(axes, place, check)
    for kind, color in VERDICT_COLORS.items():
        axes.plot([], [], "o", color=color, label=kind or "no claim")
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    labels = [f"{finding.name} ({finding.treatment}): {check.metric}" for finding, check in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=7)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("difference to the control, % (mean over the seeds and 95 % interval; bar: limit of the claim)")
    axes.grid(axis="x", color="0.92")
    axes.legend(frameon=True, fontsize=7)
    return _saved(figure, path)


def _draw_check(axes: Any, place: int, check: Check) -> None:
    color = VERDICT_COLORS[check.verdict]
    known = [value for value in check.values if value is not None]
    axes.plot(known, [place] * len(known), "|", color="0.7", markersize=6)
    if check.effect is not None:
        mean = check.effect.difference
        axes.errorbar(mean, place, xerr=[[mean - check.effect.low], [check.effect.high - mean]], fmt="o", color=color,
                      markersize=4, capsize=2, elinewidth=1)  # fmt: skip
    if check.limit is not None:
        axes.plot([check.limit] * 2, [place - 0.4, place + 0.4], color="0.2", linewidth=1.5)


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
