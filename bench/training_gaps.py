"""Gaps to fp32 over the seeds of a suite that trains, and how sure they are.

gap of a seed = 100 · (loss / loss of fp32 - 1) percent, both after the same batches from the same weights
standard error = s / sqrt(n) over the seeds
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean, stdev
from typing import Any

from narrowgauge.bench.machine import describe_machine
from narrowgauge.bench.training_run import Trained, TrainingSettings

Losses = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """losses, baseline_losses, gaps_percent: one for each seed; None where a run diverged. mean_loss and
    mean_gap_percent are None with one of those, standard_error_percent also for a single seed."""

    seeds: tuple[int, ...]
    losses: tuple[float | None, ...]
    baseline_losses: tuple[float | None, ...]
    gaps_percent: tuple[float | None, ...]
    mean_loss: float | None
    mean_gap_percent: float | None
    standard_error_percent: float | None


def paired_gaps(results: Sequence[Trained], baseline: Mapping[int, float | None]) -> Gaps:
    """The gaps of `results`, one for each seed, to `baseline`: seed → final loss."""
    losses = tuple(r.final_loss for r in results)
    theirs = tuple(baseline[r.run.seed] for r in results)
    gaps = tuple(_gap(*pair) for pair in zip(losses, theirs, strict=True))
    known = [gap for gap in gaps if gap is not None]
    complete = len(known) == len(gaps)
    return Gaps(
        seeds=tuple(r.run.seed for r in results),
        losses=losses,
        baseline_losses=theirs,
        gaps_percent=gaps,
        mean_loss=fmean(loss for loss in losses if loss is not None) if complete else None,
        mean_gap_percent=fmean(known) if complete else None,
        standard_error_percent=stdev(known) / math.sqrt(len(known)) if complete and len(known) > 1 else None,
    )


def is_further_than_its_error(gaps: Gaps, limit_percent: float) -> bool:
    """Whether the mean gap, of either sign, is further from the limit than its standard error."""
    mean, error = gaps.mean_gap_percent, gaps.standard_error_percent
    return mean is not None and error is not None and abs(abs(mean) - limit_percent) > error


def _gap(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else 100 * (ours / theirs - 1)


def root_mean_square(gaps_percent: Losses) -> float | None:
    """Over the seeds that did not diverge: of the baseline's perturbed twin it is the noise. None without any."""
    known = [gap for gap in gaps_percent if gap is not None]
    return math.sqrt(fmean(gap * gap for gap in known)) if known else None


def document(
    suite: str, settings: TrainingSettings, results: Sequence[Trained], pending: int, verdicts: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything, for JSON: settings, `verdicts`, each run with its curves, the machines that the runs point to."""
    machines: list[Mapping[str, Any]] = []
    for result in results:
        if result.machine not in machines:
            machines.append(result.machine)
    return {
        "suite": suite,
        "settings": asdict(settings),
        "num_parameters": settings.num_parameters(),
        **verdicts,
        "pending_runs": pending,
        "runs": [asdict(r) | {"machine": machines.index(r.machine)} for r in results],
        "machines": machines or [asdict(describe_machine())],
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
