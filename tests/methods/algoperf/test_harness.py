import math
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.methods.algoperf import (
    Outcome,
    Span,
    Submission,
    Training,
    Workload,
    find_target,
    run_benchmark,
    run_trial,
)
from narrowgauge.methods.algoperf.submissions import adamw, broken, heavy_ball, nadamw, nesterov
from narrowgauge.methods.algoperf.workloads import MeanSquaredError, regression
from narrowgauge.train import Constant, Method
from narrowgauge.train.tasks import TensorSource, ill_conditioned_regression

TRAIN, VALIDATION = ill_conditioned_regression(200, seed=0, num_features=4, condition=2.0).split(40)


def squared_error(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch["input_ids"]), batch["labels"])


def zeros(seed: int) -> nn.Module:
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.01 * seed)
    return layer


EASY = Workload(
    name="easy",
    model=zeros,
    data=lambda seed: TensorSource(TRAIN, VALIDATION, batch_size=20, seed=seed),
    metric=squared_error,
    target=0.1,
    steps=40,
    eval_every=4,
    methods=lambda: (MeanSquaredError(),),
)


def descent(name: str = "descent", methods: tuple[Method, ...] = ()) -> Submission:
    """Plain gradient descent at a constant rate."""

    def build(values: Mapping[str, float], steps: int) -> Training:
        return Training(lambda groups: torch.optim.SGD(groups, lr=1.0), Constant(values["lr"]), methods)

    return Submission(name, build, {"lr": Span(0.2, 0.4)})


def test_a_trial_ends_where_the_target_is_reached() -> None:
    outcome = run_trial(EASY, descent(), {"lr": 0.3}, seed=1)
    assert outcome.steps in range(4, 40, 4)
    assert outcome.metric <= 0.1
    assert 0 < outcome.seconds < math.inf
    assert outcome.trial().time == outcome.steps
    assert outcome.trial("seconds").time == outcome.seconds
    whole = run_trial(EASY, descent(), {"lr": 0.3}, seed=1, to_the_end=True)
    assert whole.steps == outcome.steps
    assert whole.metric < outcome.metric


def test_the_target_is_met_at_the_first_evaluation_at_which_the_metric_is_there() -> None:
    metrics = [run_trial(EASY.shortened(steps), descent(), {"lr": 0.3}, seed=1, to_the_end=True).metric
               for steps in range(4, 24, 4)]  # fmt: skip
    first = next(4 * (index + 1) for index, metric in enumerate(metrics) if metric <= 0.1)
    assert run_trial(EASY, descent(), {"lr": 0.3}, seed=1).steps == first


def test_a_metric_that_has_to_rise_is_reached_from_below() -> None:
    upward = replace(EASY, better="higher", target=-0.1, metric=lambda model, batch: -squared_error(model, batch))
    assert (
        run_trial(upward, descent(), {"lr": 0.3}, seed=1).steps == run_trial(EASY, descent(), {"lr": 0.3}, seed=1).steps
    )
    assert not upward.is_reached(math.nan)
    assert not EASY.is_reached(math.nan)


def test_a_miss_is_infinite() -> None:
    outcome = run_trial(replace(EASY, target=-1.0), descent(), {"lr": 0.3}, seed=1)
    assert outcome.steps == outcome.seconds == math.inf


def test_a_run_that_breaks_off_is_a_miss() -> None:
    outcome = run_trial(EASY, descent(), {"lr": 1e30}, seed=1)
    assert outcome.steps == math.inf


def test_evaluation_does_not_count_as_time() -> None:
    def slow(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        time.sleep(0.05)
        return squared_error(model, batch)

    start = time.perf_counter()
    outcome = run_trial(replace(EASY, metric=slow, eval_every=10), descent(), {"lr": 0.3}, seed=1)
    slept = 0.05 * len(EASY.data(1).validation()) * outcome.steps / 10
    assert slept > 0
    assert outcome.seconds <= time.perf_counter() - start - slept


def test_a_budget_gives_a_submission_more_steps() -> None:
    seen: list[int] = []

    def build(values: Mapping[str, float], steps: int) -> Training:
        seen.append(steps)
        return Training(lambda groups: torch.optim.SGD(groups, lr=0.1), Constant(1e-9))

    run_trial(EASY, Submission("tuned by itself", build, budget=1.5), {}, seed=0)
    assert seen == [60]
    with pytest.raises(ValueError, match="budget: expected a number above 0"):
        Submission("none", build, budget=0)


def test_a_submission_may_bring_methods() -> None:
    class Count(Method):
        name = "count"
        steps = 0

        def post_step(self, model: nn.Module, step: int, old: object) -> None:
            Count.steps += 1

    run_trial(EASY, descent(methods=(Count(),)), {"lr": 0.3}, seed=1, to_the_end=True)
    assert Count.steps == 40


def test_a_benchmark_runs_every_pair_in_every_study_and_repeats_itself() -> None:
    def run() -> list[Outcome]:
        harder = replace(EASY, name="harder", target=0.01)
        self_tuned = Submission("fixed", lambda values, steps: descent().build({"lr": 0.1}, steps))
        return run_benchmark([EASY, harder], [descent(), self_tuned], studies=2, trials=2, seed=5)

    first, second = run(), run()
    keys = [(one.submission, one.workload, one.study) for one in first]
    assert len(first) == 2 * 2 * (2 + 1)
    assert {key: keys.count(key) for key in keys} == {
        (name, workload, study): 2 if name == "descent" else 1
        for name in ("descent", "fixed") for workload in ("easy", "harder") for study in (0, 1)
    }  # fmt: skip
    assert [replace(one, seconds=1.0) for one in first] == [replace(one, seconds=1.0) for one in second]
    assert first[0].values != first[2].values  # another study, other points


def test_a_benchmark_of_nothing_or_of_one_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="studies, trials: expected at least 1, got 0 and 1"):
        run_benchmark([EASY], [descent()], studies=0, trials=1, seed=0)
    with pytest.raises(ValueError, match="submissions: expected different names, got descent, descent"):
        run_benchmark([EASY], [descent(), descent()], studies=1, trials=1, seed=0)


def test_a_target_is_the_median_of_the_best_baseline_within_three_quarters_of_the_steps() -> None:
    baselines = [descent("slow"), adamw()]
    target = find_target(EASY, baselines, trials=2, seeds=(1, 2, 3))
    assert target == find_target(EASY, baselines, trials=2, seeds=(1, 2, 3))
    reachable = replace(EASY, target=target)
    assert sum(
        math.isfinite(run_trial(reachable.shortened(30), descent(), {"lr": lr}, seed=seed).steps)
        for seed in (1, 2, 3) for lr in (0.2, 0.4)
    ) >= 1  # fmt: skip
    with pytest.raises(ValueError, match="baselines: none comes to an end on workload 'easy'"):
        find_target(EASY, [Submission("bad", lambda values, steps: descent().build({"lr": 1e30}, steps))],
                    trials=1, seeds=(1,))  # fmt: skip


@pytest.mark.parametrize("submission", [adamw(), adamw("log8"), nadamw(), nesterov(), heavy_ball()])
def test_baselines_train_and_the_broken_one_does_not(submission: Submission) -> None:
    lr = 0.3 if "lr" in submission.space and submission.space["lr"].high >= 0.5 else 0.1
    workload = regression().shortened(60)
    start = workload.measure(workload.model(1), workload.data(1).validation())
    assert run_trial(workload, submission, {"lr": lr}, seed=1, to_the_end=True).metric < 0.9 * start
    lazy = run_trial(workload, broken(), {"lr": 1e-5}, seed=1, to_the_end=True).metric
    assert lazy == pytest.approx(start, rel=0.02)
