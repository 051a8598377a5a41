"""The suite: order of the runs, work shared between processes, and what is refused before it starts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from narrowgauge.bench.optim_training import plan, run_all
from narrowgauge.bench.optim_training_run import Run, RunResult
from narrowgauge.bench.run_lock import exclusive
from narrowgauge.bench.training_run import TrainingSettings, read_result
from narrowgauge.bench.training_runs import finished_runs


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> TrainingSettings:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return TrainingSettings(
        dim=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        ffn_dim=32,
        seq_len=16,
        steps=4,
        evaluations=1,
        curve_batches=1,
        final_windows=16,
        data=str(path),
    )


RUNS = plan(["coat"], [0.95], 2)


def test_comparisons_are_complete_early() -> None:
    assert plan(["coat", "int8"], [0.95, 0.999], 2, noise_floor=True) == [
        Run(seed, beta2, state)
        for seed in (0, 1)
        for beta2 in (0.95, 0.999)
        for state in ("fp32", "coat", "int8", "fp32-perturbed")
    ]


def test_baseline_is_there_once_and_first_even_if_asked_for() -> None:
    assert [run.state for run in plan(["coat", "fp32", "coat"], [0.95, 0.95], 1)] == ["fp32", "coat"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["coat"], [0.95], 0), "seeds: expected at least 1, got 0"),
        ((["coat"], [], 1), "beta2: expected at least one value"),
        ((["fp32"], [0.95], 1), "state: expected another one than fp32"),
        ((["fp32-perturbed"], [0.95], 1), "state: fp32-perturbed is not a codec"),
    ],
)
def test_plans_without_a_comparison_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*arguments)


def test_all_runs_are_trained_once(settings, tmp_path) -> None:
    heard = []
    done = run_all(RUNS, settings, tmp_path, finished=lambda result, count: heard.append((result.run, count)))
    assert [result.run for result in done] == RUNS
    assert heard == [(run, count) for count, run in enumerate(RUNS, start=1)]
    assert run_all(RUNS, settings, tmp_path, finished=lambda *_: pytest.fail("trained again")) == done


def test_a_seed_more_keeps_what_is_there(settings, tmp_path) -> None:
    heard = []
    first = run_all(RUNS[:2], settings, tmp_path)
    both = run_all(RUNS, settings, tmp_path, finished=lambda result, _: heard.append(result.run))
    assert both[:2] == first
    assert heard == RUNS[2:]


def test_what_another_process_trains_is_left_to_it(settings, tmp_path) -> None:
    busy = RUNS[1]
    with exclusive(tmp_path / busy.name / "run.lock") as held:
        assert held
        done = run_all(RUNS, settings, tmp_path)
    assert [result.run for result in done] == [run for run in RUNS if run != busy]
    assert [result.run for result in run_all(RUNS, settings, tmp_path)] == RUNS


def test_interrupted_suite_goes_on_where_it_was(settings, tmp_path) -> None:
    whole = run_all(RUNS, settings, tmp_path / "whole")

    class Interrupt:
        def __init__(self, label: str) -> None:
            self.label = label

        def start(self, first: int, last: int) -> None: ...

        def log(self, step: int, metrics) -> None:
            if self.label.startswith("[2/4]") and step == 3:
                raise KeyboardInterrupt

        def stop(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        run_all(RUNS, settings, tmp_path / "torn", save_every=2, logger=Interrupt)
    assert len(finished_runs(RUNS, tmp_path / "torn", RunResult)) == 1
    torn = run_all(RUNS, settings, tmp_path / "torn", save_every=2)
    assert [(r.run, r.final_loss, r.train_curve) for r in torn] == [(r.run, r.final_loss, r.train_curve) for r in whole]


def test_folder_of_other_settings_is_refused_and_left_alone(settings, tmp_path) -> None:
    run_all(RUNS[:1], settings, tmp_path)
    other = dataclasses.replace(settings, steps=5, lr=0.5)
    with pytest.raises(ValueError, match=r"other settings \(lr: 0.0004 there, 0.5 here; steps: 4 there, 5 here\)"):
        run_all(RUNS, other, tmp_path)
    assert read_result(RUNS[1], tmp_path / RUNS[1].name, RunResult) is None


def test_unknown_state_is_refused_before_anything_is_written(settings, tmp_path) -> None:
    with pytest.raises(ValueError, match="coat"):
        run_all([*RUNS, Run(0, 0.95, "coatt")], settings, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_every_zero_is_refused(settings, tmp_path) -> None:
    with pytest.raises(ValueError, match="save_every: expected at least 1, got 0"):
        run_all(RUNS, settings, tmp_path, save_every=0)


def test_threads_are_put_back(settings, tmp_path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_all(RUNS[:1], settings, tmp_path)
        assert torch.get_num_threads() == 2
        assert finished_runs(RUNS[:1], tmp_path, RunResult)[0].machine["threads"] == 1
    finally:
        torch.set_num_threads(before)
