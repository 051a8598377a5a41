"""From times to scores.

Paper, §4. ``t[s, w]``: the median over studies of the fastest trial's time to the target of workload ``w``, infinite
where it is missed. Then, over the submissions ``s`` that are compared::

    r[s, w] = t[s, w] / min_s t[s, w]                 rho_s(tau) = share of the workloads with r[s, w] <= tau
    B_s = 1 / (r_max - 1) · ∫ rho_s(tau) dtau, tau from 1 to r_max
        = mean over w of max(0, (r_max - r[s, w]) / (r_max - 1))

The second form of ``B`` is exact; a sum over a grid of ``tau`` misses the jumps. Scores are relative: another
submission changes them. A workload that nobody solves stays in the mean, with 0 for everybody.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

R_MAX = 4.0

Times = Mapping[str, Mapping[str, float]]
"""Submission → workload → time to the target, or ``inf``."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How long one trial took to reach the target, in any unit: above 0, ``inf`` where it did not."""

    submission: str
    workload: str
    study: int
    time: float

    def __post_init__(self) -> None:
        if not self.time > 0:
            raise ValueError(f"time: expected a number above 0, or inf, got {self.time!r}")


def times_to_target(trials: Iterable[Trial]) -> dict[str, dict[str, float]]:
    """``t``: the fastest trial of each study, then the median over studies.

    Raises ``ValueError`` where a submission was not tried on a workload, or in fewer studies than others.
    """
    fastest: dict[tuple[str, str], dict[int, float]] = {}
    for trial in trials:
        by_study = fastest.setdefault((trial.submission, trial.workload), {})
        by_study[trial.study] = min(trial.time, by_study.get(trial.study, math.inf))
    submissions = dict.fromkeys(submission for submission, _ in fastest)
    workloads = dict.fromkeys(workload for _, workload in fastest)
    studies = {study for by_study in fastest.values() for study in by_study}
    for submission in submissions:
        for workload in workloads:
            found = fastest.get((submission, workload), {})
            if set(found) != studies:
                raise ValueError(
                    f"trials: {submission!r} has studies {sorted(found)} of workload {workload!r}, expected"
                    f" {sorted(studies)}"
                )
    return {
        submission: {workload: median(fastest[submission, workload].values()) for workload in workloads}
        for submission in submissions
    }


def gated(times: Times, variants: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Times without the held-out variants: who misses a variant has missed its base workload.

    ``variants`` maps the names of the variants to those of their bases. Raises ``ValueError`` for unknown names.
    """
    found = {}
    for submission, by_workload in times.items():
        for name in (*variants, *variants.values()):
            if name not in by_workload:
                raise ValueError(f"variants: unknown workload {name!r}; expected some of {', '.join(by_workload)}")
        missed = {base for variant, base in variants.items() if math.isinf(by_workload[variant])}
        found[submission] = {
            workload: math.inf if workload in missed else time
            for workload, time in by_workload.items()
            if workload not in variants
        }
    return found


def ratios(times: Times) -> dict[str, dict[str, float]]:
    """``r``: 1 for the fastest submission of a workload; ``inf`` for all where nobody reaches the target."""
    workloads = dict.fromkeys(workload for by_workload in times.values() for workload in by_workload)
    best = {workload: min(by_workload[workload] for by_workload in times.values()) for workload in workloads}
    return {
        submission: {
            workload: math.inf if math.isinf(time) else time / best[workload] for workload, time in by_workload.items()
        }
        for submission, by_workload in times.items()
    }


def performance_profile(ratios_of_one: Iterable[float], taus: Sequence[float]) -> list[float]:
    """``rho`` at each of ``taus``: the share of workloads that were solved within ``tau`` times the fastest time."""
    values = list(ratios_of_one)
    if not values:
        raise ValueError("ratios_of_one: expected at least one workload, got none")
    return [sum(value <= tau for value in values) / len(values) for tau in taus]


def score(ratios_of_one: Iterable[float], *, r_max: float = R_MAX) -> float:
    """``B`` of one submission, 0 … 1, from its ratios on all workloads."""
    if not r_max > 1:
        raise ValueError(f"r_max: expected a number above 1, got {r_max!r}")
    values = list(ratios_of_one)
    if not values or not all(value >= 1 for value in values):
        raise ValueError(f"ratios_of_one: expected numbers of at least 1, one a workload, got {values!r}")
    return sum(max(0.0, (r_max - value) / (r_max - 1)) for value in values) / len(values)


def scores(times: Times, *, r_max: float = R_MAX) -> dict[str, float]:
    """``B`` of every submission."""
    return {name: score(by_workload.values(), r_max=r_max) for name, by_workload in ratios(times).items()}
