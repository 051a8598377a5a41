"""`narrowgauge bench recipes`: table on stdout, remarks on stderr, JSON and picture on disk."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from narrowgauge.bench.recipes import choose, plan
from narrowgauge.bench.recipes_run import RecipeSettings
from narrowgauge.bench.run_lock import exclusive
from narrowgauge.commands import bench_recipes, training_output
from narrowgauge.commands.training_progress import RunsProgress

SMALL = (
    *("--dim", "32", "--num-layers", "1", "--num-heads", "2", "--num-kv-heads", "1", "--ffn-dim", "32"),
    *("--seq-len", "16", "--batch-size", "2", "--steps", "4", "--evaluations", "2", "--curve-batches", "1"),
    *("--final-windows", "16", "--seeds", "2", "--data", "text.txt", "--runs", "runs"),
)
ONE = ("--recipe", "fp8_row")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands read and write below a folder that holds a text alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return tmp_path


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench_recipes.add_parser(parser.add_subparsers())
    args = parser.parse_args(["recipes", *words])
    return args.run(args)


def test_table_compares_and_files_are_written(folder, capsys) -> None:
    pytest.importorskip("matplotlib")
    (folder / "mine.toml").write_text('x = "int4/1x16"\n')
    assert run(*SMALL, *ONE, "--recipe", "mine.toml", "--out", "out/result.json") == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.rstrip() for line in out.splitlines()[3:9]}
    assert list(rows)[:4] == ["fp32", "bf16", "fp32-perturbed", "fp32-moved"]
    assert set(rows) == {*list(rows)[:4], "fp8_row", "mine"}
    assert rows["fp32"].endswith("baseline")
    assert "4 (2 of 6)" in rows["mine"]
    assert "noise: fp32 and fp32-moved end" in out
    assert "12 of 12 runs are done" in err
    assert "written: out/result.png" in err
    content = json.loads((folder / "out" / "result.json").read_text())
    assert (len(content["runs"]), content["pending_runs"], content["settings"]["dim"]) == (12, 0, 32)


def test_second_command_trains_nothing_and_says_the_same(capsys) -> None:
    run(*SMALL, *ONE)
    first = capsys.readouterr()
    run(*SMALL, *ONE)
    second = capsys.readouterr()
    assert second.out == first.out
    assert "runs are done" in first.err
    assert "runs are done" not in second.err


def test_json_has_no_curves(folder, capsys) -> None:
    run(*SMALL, *ONE, "--json")
    content = json.loads(capsys.readouterr().out)
    assert {c["recipe"] for c in content["comparisons"]} == {"fp32", "bf16", "fp8_row", "fp32-perturbed", "fp32-moved"}
    assert "runs" not in content
    assert (folder / "runs" / "recipes.json").exists()


def test_runs_of_another_process_are_named(folder, capsys) -> None:
    last = plan(choose(["fp8_row"]), 2)[-1]
    with exclusive(folder / "runs" / last.name / "run.lock"):
        run(*SMALL, *ONE)
    assert "in the hands of another process, which will write all results: 1 of 10 runs" in capsys.readouterr().err


def test_a_recipe_that_raises_is_named_and_the_others_are_compared(monkeypatch, capsys) -> None:
    from narrowgauge.bench import recipes_run

    def broken(model, recipe):
        raise RuntimeError("cannot")

    monkeypatch.setattr(recipes_run, "convert", broken)
    assert run(*SMALL, *ONE) == 1
    out, err = capsys.readouterr()
    assert "failed: seed 0, fp8_row: RuntimeError: cannot" in out
    assert "fp32-perturbed" in out
    assert "another process" not in err


def test_without_matplotlib_there_is_a_remark(monkeypatch, capsys) -> None:
    monkeypatch.setattr(training_output, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*SMALL, *ONE) == 0
    assert "matplotlib is not installed (pip install 'narrowgauge[plots]')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0"), "seeds: expected at least 1"),
        (("--steps", "0"), "steps: expected at least 1"),
        (("--recipe", "fp8_rwo"), "nearest: fp8_row"),
        (("--data", "missing.txt"), "missing.txt does not exist"),
    ],
)
def test_mistakes_are_noticed_before_training(words, message: str, capsys) -> None:
    with pytest.raises(ValueError, match=message):
        run(*SMALL, *ONE, *words)
    assert "runs are done" not in capsys.readouterr().err


def test_defaults_of_the_flags_are_those_of_the_settings() -> None:
    settings = dataclasses.asdict(RecipeSettings())
    assert {name: settings[name] for name in bench_recipes.SETTINGS} == bench_recipes.SETTINGS


def test_bar_counts_the_steps_of_all_runs() -> None:
    seen = []
    bar = RunsProgress(lambda done, total, text: seen.append((done, total, text)), steps=10, runs=3, done=1)
    logger = bar.logger("[2/3] seed 0, fp8_row")
    logger.start(4, 10)
    logger.log(5, {"loss": 2.0, "val_loss": 3.0})
    logger.log(6, {"loss": 1.5})
    bar.finished(3)
    assert seen == [
        (14, 30, "[2/3] seed 0, fp8_row"),
        (15, 30, "[2/3] seed 0, fp8_row: loss 2.0000, validation 3.0000"),
        (16, 30, "[2/3] seed 0, fp8_row: loss 1.5000, validation 3.0000"),
        (30, 30, ""),
    ]
