"""Runs submissions on workloads: the time until the target is reached, without the time of looking whether it is."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from narrowgauge.methods.algoperf.scoring import Trial
from narrowgauge.methods.algoperf.submissions import Submission
from narrowgauge.methods.algoperf.tuning import Values, quasi_random
from narrowgauge.methods.algoperf.workloads import Workload
from narrowgauge.train import Trainer
from narrowgauge.train.rng import derive_seed

Prepare = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial. ``steps`` and ``seconds`` until the target, ``inf`` where it was missed or the trial broke off;
    ``metric``: the last one measured, NaN where there is none."""

    submission: str
    workload: str
    study: int
    values: Values
    steps: float
    seconds: float
    metric: float

    def trial(self, clock: str = "steps") -> Trial:
        """For scoring, with ``"steps"`` (the same on every machine) or ``"seconds"`` as the time."""
        if clock not in ("steps", "seconds"):
            raise ValueError(f"clock: expected 'steps' or 'seconds', got {clock!r}")
        return Trial(self.submission, self.workload, self.study, self.steps if clock == "steps" else self.seconds)


def run_trial(
    workload: Workload,
    submission: Submission,
    values: Mapping[str, float],
    *,
    seed: int,
    study: int = 0,
    prepare: Prepare = lambda model: model,
    to_the_end: bool = False,
) -> Outcome:
    """Train until the target is reached or the steps are used up; with ``to_the_end``, all of them.

    ``seed`` is that of weights, batches and training. A loss or gradient that is not finite, and memory that is used
    up, are a miss.
    """
    steps = max(1, round(workload.steps * submission.budget))
    training = submission.build(values, steps)
    trainer = Trainer(
        prepare(workload.model(seed)),
        workload.data(seed),
        training.optimizer,
        schedule=training.schedule,
        methods=(*workload.methods(), *training.methods),
        seed=seed,
    )
    batches = trainer.data.validation()
    reached_steps = reached_seconds = math.inf
    seconds, metric = 0.0, math.nan
    while trainer.step < steps and (to_the_end or math.isinf(reached_steps)):
        start = time.perf_counter()
        try:
            trainer.fit(min(trainer.step + workload.eval_every, steps))
        except (FloatingPointError, torch.OutOfMemoryError):
            break
        seconds += time.perf_counter() - start
        metric = workload.measure(trainer.model, batches)
        if workload.is_reached(metric) and math.isinf(reached_steps):
            reached_steps, reached_seconds = float(trainer.step), seconds
    return Outcome(submission.name, workload.name, study, dict(values), reached_steps, reached_seconds, metric)


def run_benchmark(
    workloads: Sequence[Workload],
    submissions: Sequence[Submission],
    *,
    studies: int,
    trials: int,
    seed: int,
    prepare: Prepare = lambda model: model,
    begin: Callable[[str, float], None] = lambda label, share: None,
) -> list[Outcome]:
    """Every submission on every workload: ``studies`` times ``trials`` points of its space (one, if it has none).

    All submissions of a study start from the same weights and read the same batches. ``begin(label, share)`` is told
    of each pair before it runs. Raises ``ValueError`` for fewer than one study or trial, and for names given twice.
    """
    if studies < 1 or trials < 1:
        raise ValueError(f"studies, trials: expected at least 1, got {studies} and {trials}")
    for what, named in (("workloads", workloads), ("submissions", submissions)):
        names = [one.name for one in named]
        if len(set(names)) < len(names):
            raise ValueError(f"{what}: expected different names, got {', '.join(names)}")
    outcomes = []
    for workload in workloads:
        for submission in submissions:
            begin(f"{submission.name} on {workload.name}", 1 / (len(workloads) * len(submissions)))
            for study in range(studies):
                study_seed = derive_seed(seed, "study", study)
                points = quasi_random(submission.space, trials if submission.space else 1, study_seed)
                outcomes += [
                    run_trial(workload, submission, values, seed=study_seed, study=study, prepare=prepare)
                    for values in points
                ]
    return outcomes


def find_target(
    workload: Workload, baselines: Sequence[Submission], *, trials: int, seeds: Sequence[int], share: float = 0.75
) -> float:
    """A target that good baselines reach about half of the time, within ``share`` of the steps.

    Paper, §4.2: ``trials`` points of each baseline on the first seed; the point with the best final metric again on
    all ``seeds``; the median of their final metrics. Raises ``ValueError`` where no trial comes to an end.
    """
    shortened = workload.shortened(max(1, round(share * workload.steps)))

    def final(baseline: Submission, values: Values, seed: int) -> float:
        return run_trial(shortened, baseline, values, seed=seed, to_the_end=True).metric

    sign = 1 if workload.better == "lower" else -1
    tried = [
        (sign * final(baseline, values, seeds[0]), index, values)
        for index, baseline in enumerate(baselines)
        for values in quasi_random(baseline.space, trials, seeds[0])
    ]
    finite = [one for one in tried if math.isfinite(one[0])]
    if not finite:
        raise ValueError(f"baselines: none comes to an end on workload {workload.name!r}")
    _, index, values = min(finite, key=lambda one: one[0])
    return median(final(baselines[index], values, seed) for seed in seeds)
