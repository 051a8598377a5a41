"""What the runs of the suite `optim-training` say: gaps to fp32 (`training_gaps`), the JSON file and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from narrowgauge.bench.optim_training_run import RunResult
from narrowgauge.bench.training_gaps import Gaps, document, is_further_than_its_error, paired_gaps, root_mean_square
from narrowgauge.bench.training_run import BASELINE, PERTURBED, TrainingSettings

LIMIT_PERCENT = 0.2
COLORS = {BASELINE: "0.2", PERTURBED: "0.65"}

Results = Sequence[RunResult]


@dataclass(frozen=True, kw_only=True)
class Comparison(Gaps):
    """One state at one β₂, over the seeds for which it and the baseline are finished.

    verdict: against limit_percent: "within", "above", "below" (better than fp32 by more than the limit) or "diverged".
    is_clear: the mean gap is further from the limit than its standard error.
    """

    state: str
    beta2: float
    limit_percent: float
    verdict: str
    is_clear: bool
    state_bytes_per_param: float
    step_ms: float


def compare(results: Results, limit_percent: float = LIMIT_PERCENT) -> list[Comparison]:
    """A comparison for each (state, β₂) that has one, the baseline with itself included; by β₂, in the order of the
    results. ValueError for a limit that is not above 0."""
    if not limit_percent > 0:
        raise ValueError(f"limit: expected a number above 0, got {limit_percent}")
    kinds = dict.fromkeys((r.run.beta2, r.run.state) for r in results)
    found = []
    for beta2, state in sorted(kinds, key=lambda kind: kind[0]):
        baseline = {r.run.seed: r.final_loss for r in results if (r.run.beta2, r.run.state) == (beta2, BASELINE)}
        own = [r for r in results if (r.run.beta2, r.run.state) == (beta2, state) and r.run.seed in baseline]
        if own:
            found.append(_comparison(own, paired_gaps(own, baseline), limit_percent))
    return found


def _comparison(own: Results, gaps: Gaps, limit: float) -> Comparison:
    return Comparison(
        **vars(gaps),
        state=own[0].run.state,
        beta2=own[0].run.beta2,
        limit_percent=limit,
        verdict=_verdict(gaps.mean_gap_percent, limit),
        is_clear=is_further_than_its_error(gaps, limit),
        state_bytes_per_param=own[0].state_bytes_per_param,
        step_ms=fmean(r.step_ms for r in own),
    )


def _verdict(mean: float | None, limit: float) -> str:
    if mean is None:
        return "diverged"
    if abs(mean) <= limit:
        return "within"
    return "above" if mean > 0 else "below"


def noise_floor(comparisons: Sequence[Comparison]) -> dict[float, float]:
    """β₂ → root mean square, over the seeds, of the gap between the baseline and its perturbed twin, in percent."""
    noise = {c.beta2: root_mean_square(c.gaps_percent) for c in comparisons if c.state == PERTURBED}
    return {beta2: value for beta2, value in noise.items() if value is not None}


def report(results: Results, pending: int, settings: TrainingSettings, limit_percent: float) -> dict[str, Any]:
    """Everything, for JSON: settings, comparisons, the noise, each run with its curves, machines."""
    comparisons = compare(results, limit_percent)
    verdicts = {
        "limit_percent": limit_percent,
        "comparisons": comparisons,
        "noise_floor_percent": noise_floor(comparisons),
    }
    return document("optim-training", settings, results, pending, verdicts)


def plot(results: Results, settings: TrainingSettings, path: Path, limit_percent: float = LIMIT_PERCENT) -> Path:
    """For each β₂ the mean curves over the seeds, and each state's distance from fp32; PNG, SVG or PDF by the ending.

    Lines are training losses, dots validation losses on the curve's batches, the crosses at the end final losses; the
    gray band is the limit. ImportError without matplotlib; ValueError where nothing can be compared yet.
    """
    from matplotlib.figure import Figure

    comparisons = [c for c in compare(results, limit_percent) if c.mean_gap_percent is not None]
    if not comparisons:
        raise ValueError("results: no finished run of fp32, nothing can be compared")
    columns = sorted({c.beta2 for c in comparisons})
    figure = Figure(figsize=(5.5 * len(columns), 6.5), layout="constrained")
    axes = figure.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
    for column, beta2 in enumerate(columns):
        losses, gaps = axes[0, column], axes[1, column]
        for index, c in enumerate(c for c in comparisons if c.beta2 == beta2):
            color = COLORS.get(c.state, f"C{index - 1}")
            _draw_state(losses, gaps, _paired(results, c), c, settings.steps, color)
        gaps.axhspan(-limit_percent, limit_percent, color="0.9", zorder=0)
        losses.set_title(f"β₂ = {beta2:g}")
        gaps.set_xlabel("step")
    axes[0, 0].set_ylabel("loss, nats per byte (mean of the seeds)")
    axes[1, 0].set_ylabel("above fp32, %\n(training loss; × final)")
    reach = max(4 * limit_percent, *(1.3 * abs(gap) for c in comparisons for gap in c.gaps_percent if gap is not None))
    axes[1, 0].set_ylim(-reach, reach)
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"Llama, {settings.num_parameters():,} parameters, {settings.steps} steps of AdamW")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _paired(results: Results, c: Comparison) -> list[tuple[RunResult, RunResult]]:
    """(run, its baseline), seed by seed."""
    found = {(r.run.seed, r.run.beta2, r.run.state): r for r in results}
    return [(found[seed, c.beta2, c.state], found[seed, c.beta2, BASELINE]) for seed in c.seeds]


def _draw_state(
    losses: Any, gaps: Any, pairs: list[tuple[RunResult, RunResult]], c: Comparison, steps: int, color: str
) -> None:
    own = [r for r, _ in pairs]
    train_steps = own[0].train_curve[0]
    curves = [r.train_curve[1] for r in own]
    losses.plot(train_steps, [fmean(at) for at in zip(*curves, strict=True)], color=color, linewidth=1, label=c.state)
    validated = zip(*(r.val_curve[1] for r in own), strict=True)
    losses.plot(own[0].val_curve[0], [fmean(at) for at in validated], "o", color=color, markersize=3)
    if c.state == BASELINE:
        return
    distances = [
        [100 * (x / y - 1) for x, y in zip(r.train_curve[1], base.train_curve[1], strict=True)] for r, base in pairs
    ]
    gaps.plot(train_steps, [fmean(at) for at in zip(*distances, strict=True)], color=color, linewidth=1)
    gaps.plot([steps] * len(c.gaps_percent), c.gaps_percent, "x", color=color, markersize=6, clip_on=False)
