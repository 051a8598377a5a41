"""Runs of `narrowgauge train`: what the settings do, what is left in the folder, where a run goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from narrowgauge.cli import main
from narrowgauge.commands.run_folder import read_run
from narrowgauge.commands.train_config import TrainConfig, merge, read_toml
from narrowgauge.commands.train_run import build_trainer
from narrowgauge.train import Bpe, load_checkpoint

DOCS = Path(__file__).resolve().parent.parent / "docs"
SENTENCE = "All that is gold does not glitter, not all those who wander are lost.\n"
SMALL = ["--data", "text.txt", "--model", "tiny", "--sizes-num-layers", "1", "--batch-size", "2", "--seq-len", "16",
         "--warmup", "1", "--recipe", "fp32", "--state", "fp32", "--device", "cpu", "--eval-every", "2",
         "--validation-batches", "1", "--save-every", "2", "--no-plot"]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"{number} {SENTENCE}" for number in range(60)))
    return tmp_path


def train(*words: str) -> None:
    assert main(["train", *SMALL, *words]) == 0


def losses(name: str) -> list[tuple[int, float]]:
    return read_run(name).metrics["loss"]


def damage(checkpoint: str) -> None:
    file = Path(checkpoint, "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_folder_repeats_the_run_and_shows_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    train("--steps", "4", "--plot", "--loggers", "jsonl,csv", "--out", "runs/one")
    err = capsys.readouterr().err
    names = ["checkpoint", "checkpoint.previous", "config.json", "config.toml", "curves.png", "metrics.csv"]
    assert sorted(path.name for path in Path("runs/one").iterdir()) == [*names, "metrics.jsonl"]
    assert 'out = "runs/one"' in err
    assert "step 4/4" not in err  # no console logger
    assert main(["train", "runs/one/config.toml", "--no-plot", "--out", "runs/two"]) == 0
    assert losses("two") == losses("one")
    kept = {name: json.loads(Path(f"runs/{name}/config.json").read_text()) for name in ("one", "two")}
    assert {name for name in kept["one"] if kept["one"][name] != kept["two"][name]} == {"out", "plot"}
    assert main(["runs", "compare", "one", "two"]) == 0


def test_settings_reach_the_trainer() -> None:
    config = TrainConfig(
        data="text.txt", model="tiny", batch_size=2, seq_len=200, warmup=1, recipe="fp32", device="cpu", steps=9,
        lr=0.5, grad_accumulation=3, clip_norm=0.25, final_ratio=0.5, keep=4, dtype="bfloat16", validation_batches=2,
    )  # fmt: skip
    trainer = build_trainer(config)
    assert (trainer.grad_accumulation, trainer.clip_norm, trainer.keep) == (3, 0.25, 4)
    assert str(trainer.dtype) == "torch.bfloat16"
    assert trainer.schedule is not None
    assert [trainer.schedule(step) for step in (0, 8)] == [0.5, 0.25]
    assert trainer.early_stopping is None
    assert trainer.model.config.max_seq_len == 200
    assert len(trainer.data.validation()) == 2
    again = merge(
        dataclasses.asdict(config), {"clip_norm": 0.0, "schedule": "constant", "sizes": {"num_layers": 1, "dim": 32}}
    )
    trainer = build_trainer(again)
    assert trainer.clip_norm is None
    assert [trainer.schedule(step) for step in (0, 8)] == [0.5, 0.5]
    assert (trainer.model.config.num_layers, trainer.model.config.dim) == (1, 32)


def test_a_tokenizer_gives_the_model_its_vocabulary() -> None:
    pytest.importorskip("tokenizers")
    bpe = Bpe.train([Path("text.txt").read_bytes()], 300)
    bpe.save("bpe.json")
    config = TrainConfig(data="text.txt", tokenizer="bpe:bpe.json", model="tiny", batch_size=1, seq_len=8, device="cpu")
    trainer = build_trainer(config)
    assert trainer.model.config.vocab_size == bpe.vocab_size == 300
    assert SENTENCE in bpe.decode(trainer.data.corpus.train.tolist())


def test_a_run_ends_early(capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "20", "--early-stopping-patience", "1", "--early-stopping-min-delta", "9", "--out", "runs/one")
    assert "stopped early after 4 of 20 steps: val_loss was not better in 1 evaluations" in capsys.readouterr().err
    assert read_run("one").steps == 4
    train("--steps", "20", "--early-stopping-patience", "1", "--early-stopping-min-delta", "9", "--out", "runs/one",
          "--resume", "--json")  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert (result["steps"], result["stopped_early"]) == (4, True)


def test_a_damaged_checkpoint_is_refused_or_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "6", "--out", "runs/whole")
    shutil.copytree("runs/whole", "runs/cut")
    damage("runs/cut/checkpoint")
    words = ["train", "runs/whole/config.toml", "--out", "runs/cut", "--resume"]
    capsys.readouterr()
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "model.safetensors is damaged" in last
    assert "the checkpoint before it, of step 4, is whole" in last
    assert main([*words, "auto"]) == 0
    err = capsys.readouterr().err
    assert "resumed at step 4: " in err
    assert "skipped " in err
    assert losses("cut") == losses("whole")
    # The damaged one does not take the place of a whole one.
    names = ("checkpoint", "checkpoint.previous")
    assert [load_checkpoint(Path("runs/cut") / name)["loop"]["step"] for name in names] == [6, 4]
    assert Path("runs/cut/checkpoint.damaged").is_dir()


def test_a_run_goes_back_to_an_older_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "4", "--out", "runs/one")
    before = losses("one")
    train("--steps", "4", "--out", "runs/one", "--resume", "runs/one/checkpoint.previous")
    assert "resumed at step 2" in capsys.readouterr().err
    assert losses("one") == before


def test_auto_begins_where_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "2", "--out", "runs/one", "--resume", "auto")
    assert "runs/one holds no checkpoint: the run begins" in capsys.readouterr().err
    assert len(losses("one")) == 2


def test_a_run_may_go_on_from_another_one_in_a_new_folder(capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "2", "--out", "runs/one")
    train("--steps", "4", "--out", "runs/two", "--resume", "runs/one")
    assert [step for step, _ in losses("two")] == [3, 4]
    assert main(["train", *SMALL, "--steps", "4", "--out", "runs/two", "--resume", "runs/one"]) == 2
    assert "runs/two holds a run of its own" in capsys.readouterr().err


def test_the_file_may_follow_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "2", "--out", "runs/one")
    assert main(["train", "--resume", "runs/one/config.toml"]) == 0
    assert "resumed at step 2" in capsys.readouterr().err


def test_print_config_writes_a_file_and_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--steps", "3", "--method", "ema:decay=0.5", "--print-config")
    (folder / "run.toml").write_text(capsys.readouterr().out)
    config = merge(read_toml("run.toml"), {})
    assert (config.steps, config.methods, config.sizes.num_layers, config.out) == (3, ("ema:decay=0.5",), 1, None)
    assert not (folder / "runs").exists()


def test_without_matplotlib_a_note_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from narrowgauge.commands import train_run

    monkeypatch.setattr(train_run, "find_spec", lambda name: None)
    train("--steps", "2", "--out", "runs/one", "--plot")
    assert "no curves are drawn: matplotlib is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "infinite_compute"], "is a procedure, it is not plugged into a run"),
        (["--method", "ema:dekay=0.9"], "ema has no setting 'dekay'; did you mean 'decay'? it has decay"),
        (["--method", "ema:0.9"], "method: expected NAME:key=value,key=value, got 'ema:0.9'"),
        (["--data", "nowhere"], "nowhere does not exist, and is no domain"),
        (["--tokenizer", "wordpiece"], "tokenizer: expected bytes or bpe:FILE, got 'wordpiece'"),
        (["--sizes-num-heads", "3"], "dim: expected num_heads=3 times an even head width"),
        (["--model", "bse"], "did you mean 'base'?"),
        (["--final-ratio", "2"], "final_ratio: expected a number in [0, 1], got 2.0"),
        (["--steps", "0"], "steps: expected at least 1"),
        (["--keep", "0"], "keep: expected at least 1, got 0"),
        (["--grad-accumulation", "0"], "grad_accumulation: expected at least 1, got 0"),
        (["--log-every", "0"], "every: expected at least 1, got 0"),
        (["--eval-every", "0", "--early-stopping-patience", "1"], "early_stopping: expected together with eval_every"),
        (["--resume", "nowhere"], "resume: nowhere holds no checkpoint"),
        (["--schedule", "linear"], "schedule: expected cosine or constant, got 'linear'"),
        (["--parallel", "dp"], "parallel: expected ddp or fsdp2, got 'dp'; did you mean 'ddp'?"),
        (["--sizes-layers", "3"], "unknown argument '--sizes-layers', did you mean '--sizes-num-layers'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["train", *SMALL, *words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    err = capsys.readouterr().err
    assert status == 2
    assert message in err.splitlines()[-1]
    assert not (folder / "runs").exists()


def test_tensorboard_without_its_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("narrowgauge.train.loggers.tensorboard.find_spec", lambda name: None)
    assert main(["train", *SMALL, "--loggers", "jsonl,tensorboard"]) == 2
    assert "pip install 'narrowgauge[tensorboard]'" in capsys.readouterr().err


def test_several_processes_without_parallel_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *SMALL]) == 2
    assert "give --parallel ddp or fsdp2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_examples_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers")
    (folder / "my_text").mkdir()
    for name in ("one.txt", "two.txt"):
        shutil.copy("text.txt", folder / "my_text" / name)
    page = (DOCS / "training-runs.md").read_text(encoding="utf-8")
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        exec(compile(example, f"training-runs.md, example {number}", "exec"), {"__name__": "docs"})
    assert re.fullmatch(r"100 \d\.\d+\n", capsys.readouterr().out)
    assert main(["train", *SMALL, "--data", "topics", "--tokenizer", "bpe:bpe.json", "--steps", "2"]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_are_one_run(parallel: str, folder: Path) -> None:
    train("--steps", "4", "--out", "runs/alone")
    words = [*SMALL, "--loggers", "console,jsonl", "--parallel", parallel, "--out", "runs/two"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "narrowgauge", "train"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}

    def together(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *launcher, *words, *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    done = together("--steps", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("val_loss") == 1  # the first process prints
    assert done.stderr.count("step 4/4") == 1
    assert [step for step, _ in losses("two")] == [1, 2, 3, 4]
    assert [loss for _, loss in losses("two")] == pytest.approx([loss for _, loss in losses("alone")], abs=1e-4)
    before = losses("two")
    damage("runs/two/checkpoint")
    done = together("--steps", "4", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumed at step 2") == 1
    assert losses("two") == before
