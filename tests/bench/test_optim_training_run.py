"""A run can be stopped anywhere and ends at the same bits; what it writes is whole."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from narrowgauge.bench.optim_training_run import Run, RunResult, make_model, make_optimizer, train_run
from narrowgauge.bench.report import write_json
from narrowgauge.bench.training_run import PERTURBED, TrainingSettings, read_result
from narrowgauge.train import ByteCorpus

SETTINGS = TrainingSettings(
    dim=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    ffn_dim=32,
    seq_len=16,
    steps=7,
    evaluations=2,
    curve_batches=2,
    final_windows=32,
    lr=1e-2,
)
STOP_AT = 5


class Stopper:
    """A logger that interrupts the run after a step; `first` is where the run began."""

    def __init__(self, at: int | None = None, how=lambda: (_ for _ in ()).throw(KeyboardInterrupt)) -> None:
        self.at, self.how, self.first = at, how, -1

    def start(self, first: int, last: int) -> None:
        self.first = first

    def log(self, step: int, metrics) -> None:
        if step == self.at:
            self.how()

    def stop(self) -> None:
        """Nothing to close."""


def text_file(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> ByteCorpus:
    return ByteCorpus(text_file(tmp_path_factory.mktemp("corpus")))


def numbers(result) -> tuple:
    return result.final_loss, result.train_curve, result.val_curve, result.state_bytes_per_param


@pytest.mark.parametrize("state", ["fp32", PERTURBED, "coat", "log8"])
def test_interrupted_run_goes_on_to_the_same_bits(state: str, corpus, tmp_path) -> None:
    run = Run(1, 0.95, state)
    whole = train_run(run, SETTINGS, corpus, tmp_path / "whole", save_every=2)
    stopper, rest = Stopper(STOP_AT), Stopper()
    with pytest.raises(KeyboardInterrupt):
        train_run(run, SETTINGS, corpus, tmp_path / "torn", save_every=2, logger=stopper)
    assert read_result(run, tmp_path / "torn", RunResult) is None
    torn = train_run(run, SETTINGS, corpus, tmp_path / "torn", save_every=2, logger=rest)
    assert (stopper.first, rest.first) == (0, 4)
    assert numbers(torn) == numbers(whole)


def test_run_stopped_before_its_first_checkpoint_starts_again(corpus, tmp_path) -> None:
    run = Run(0, 0.999, "fp32")
    whole = train_run(run, SETTINGS, corpus, tmp_path / "whole", save_every=7)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, SETTINGS, corpus, tmp_path / "torn", save_every=7, logger=Stopper(STOP_AT))
    assert numbers(train_run(run, SETTINGS, corpus, tmp_path / "torn", save_every=7)) == numbers(whole)


def test_result_reads_back_and_checkpoints_are_gone(corpus, tmp_path) -> None:
    run = Run(0, 0.95, "coat")
    result = train_run(run, SETTINGS, corpus, tmp_path, save_every=2)
    assert read_result(run, tmp_path, RunResult) == result
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "result.json"]
    assert result.train_curve[0] == list(range(1, 8))
    assert result.val_curve[0] == [4, 7]
    assert result.machine["torch"] == torch.__version__


def test_states_are_measured(corpus, tmp_path) -> None:
    by_state = {
        state: train_run(Run(0, 0.95, state), SETTINGS, corpus, tmp_path / state, save_every=9).state_bytes_per_param
        for state in ("fp32", "int8")
    }
    assert 8 <= by_state["fp32"] < 8.1
    assert 2.06 <= by_state["int8"] < 2.2


def test_baseline_is_torchs_fused_adamw() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))]}]
    optimizer = make_optimizer(Run(0, 0.98, "fp32"), SETTINGS, groups)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"] is True
    assert optimizer.defaults["betas"] == (0.9, 0.98)


def test_stochastic_rounding_differs_between_seeds() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))]}]
    assert [make_optimizer(Run(s, 0.98, "log8"), SETTINGS, groups).defaults["seed"] for s in (0, 5)] == [0, 5]


def test_runs_of_a_seed_start_alike_and_the_perturbed_one_a_hair_beside() -> None:
    fp32, coat, near, other = (
        torch.nn.utils.parameters_to_vector(make_model(run, SETTINGS).parameters())
        for run in (Run(3, 0.95, "fp32"), Run(3, 0.9, "coat"), Run(3, 0.95, PERTURBED), Run(4, 0.95, "fp32"))
    )
    assert torch.equal(fp32, coat)
    assert not torch.equal(fp32, other)
    moved = (near - fp32).abs() / fp32.abs()
    assert 0 < moved.max() < 1e-6
    assert (near != fp32).float().mean() > 0.3


def test_diverging_run_is_a_result(corpus, tmp_path) -> None:
    wild = dataclasses.replace(SETTINGS, lr=1e20, warmup=0.0)
    run = Run(0, 0.95, "fp32")
    result = train_run(run, wild, corpus, tmp_path, save_every=2)
    assert result.final_loss is None
    assert "step" in result.note
    assert read_result(run, tmp_path, RunResult) == result


def test_result_of_another_run_is_refused(corpus, tmp_path) -> None:
    train_run(Run(0, 0.95, "fp32"), SETTINGS, corpus, tmp_path, save_every=9)
    with pytest.raises(ValueError, match=r"runs: .*result.json is of the run seed 0, β2 0.95, fp32, not of seed 1"):
        read_result(Run(1, 0.95, "fp32"), tmp_path, RunResult)


def test_runs_have_folders_of_their_own() -> None:
    runs = [Run(s, b, state) for s in (0, 1) for b in (0.95, 0.999) for state in ("fp32", "nf4/1x128", "coat")]
    assert len({run.name for run in runs}) == len(runs)
    assert all(Path(run.name).name == run.name for run in runs)


def test_json_replaces_an_older_file_whole(tmp_path) -> None:
    path = tmp_path / "file.json"
    path.write_text("older")
    write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n "a": null\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_process_goes_on_to_the_same_bits(tmp_path) -> None:
    here = Path(__file__)
    code = "import runpy, sys; from pathlib import Path\nrunpy.run_path(sys.argv[1])['killed_run'](Path(sys.argv[2]))\n"
    command = [sys.executable, "-c", code, str(here), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(here.parents[2] / "src")}
    assert subprocess.run(command, check=False, env=environment).returncode == -signal.SIGKILL
    corpus, run = ByteCorpus(tmp_path / "text.txt"), Run(0, 0.95, "coat")
    rest = Stopper()
    torch.set_num_threads(1)
    torn = train_run(run, SETTINGS, corpus, tmp_path / "torn", save_every=2, logger=rest)
    assert rest.first == 4
    assert numbers(torn) == numbers(train_run(run, SETTINGS, corpus, tmp_path / "whole", save_every=2))


def killed_run(folder: Path) -> None:
    """What the child of the test above does: train, and be killed in the middle."""
    torch.set_num_threads(1)
    corpus = ByteCorpus(text_file(folder))
    stopper = Stopper(STOP_AT, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train_run(Run(0, 0.95, "coat"), SETTINGS, corpus, folder / "torn", save_every=2, logger=stopper)
