"""`narrowgauge bench optim-training`: table on stdout, remarks on stderr, JSON and picture on disk."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from narrowgauge.bench.run_lock import exclusive
from narrowgauge.bench.training_run import TrainingSettings
from narrowgauge.commands import bench_optim_training, training_output

SMALL = (
    *("--dim", "32", "--num-layers", "1", "--num-heads", "2", "--num-kv-heads", "1", "--ffn-dim", "32"),
    *("--seq-len", "16", "--steps", "4", "--evaluations", "2", "--curve-batches", "1", "--final-windows", "16"),
    *("--state", "coat", "--beta2", "0.95", "--seeds", "2", "--data", "text.txt", "--runs", "runs"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands read and write below a folder that holds a text alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return tmp_path


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench_optim_training.add_parser(parser.add_subparsers())
    args = parser.parse_args(["optim-training", *words])
    return args.run(args)


def test_table_compares_and_files_are_written(folder, capsys) -> None:
    pytest.importorskip("matplotlib")
    assert run(*SMALL, "--noise-floor", "--out", "out/result.json") == 0
    out, err = capsys.readouterr()
    rows = {line.split()[1]: line.rstrip() for line in out.splitlines() if line.strip().startswith("0.95")}
    assert list(rows) == ["fp32", "coat", "fp32-perturbed"]
    assert rows["fp32"].endswith("baseline")
    assert rows["fp32-perturbed"].endswith("chance alone")
    assert "noise at β2 = 0.95" in out
    assert "[1/6] seed 0, β2 0.95, fp32" in err
    assert "6 of 6 runs are done" in err
    assert "written: out/result.png" in err
    content = json.loads((folder / "out" / "result.json").read_text())
    assert len(content["runs"]) == 6
    assert content["pending_runs"] == 0
    assert content["settings"]["dim"] == 32


def test_second_command_trains_nothing_and_says_the_same(capsys) -> None:
    run(*SMALL)
    first = capsys.readouterr()
    run(*SMALL)
    second = capsys.readouterr()
    assert second.out == first.out
    assert "step 4/4" in first.err
    assert "step 4/4" not in second.err


def test_json_has_no_curves(folder, capsys) -> None:
    run(*SMALL, "--json")
    content = json.loads(capsys.readouterr().out)
    assert [c["state"] for c in content["comparisons"]] == ["fp32", "coat"]
    assert "runs" not in content
    assert (folder / "runs" / "optim-training.json").exists()


def test_runs_of_another_process_are_named(folder, capsys) -> None:
    with exclusive(folder / "runs" / "seed1-beta2_0.95-coat" / "run.lock"):
        run(*SMALL)
    assert "in the hands of another process, which will write all results: 1 of 4 runs" in capsys.readouterr().err
    assert json.loads((folder / "runs" / "optim-training.json").read_text())["pending_runs"] == 1


def test_without_matplotlib_there_is_a_remark(monkeypatch, capsys) -> None:
    monkeypatch.setattr(training_output, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*SMALL) == 0
    assert "matplotlib is not installed (pip install 'narrowgauge[plots]')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "0"), "limit: expected a number above 0"),
        (("--steps", "0"), "steps: expected at least 1"),
        (("--state", "coatt"), "coatt"),
        (("--data", "missing.txt"), "missing.txt does not exist"),
    ],
)
def test_mistakes_are_noticed_before_training(words, message: str, capsys) -> None:
    with pytest.raises(ValueError, match=message):
        run(*SMALL, *words)
    assert "step" not in capsys.readouterr().err.replace("runs of 4 steps", "")


def test_defaults_of_the_flags_are_those_of_the_settings() -> None:
    parser = argparse.ArgumentParser()
    bench_optim_training.add_arguments(parser)
    flags = vars(parser.parse_args([]))
    settings = dataclasses.asdict(TrainingSettings())
    assert {name: flags[name] for name in settings if name in flags} == {
        name: value for name, value in settings.items() if name in flags
    }
    assert set(bench_optim_training.SETTINGS) < set(settings)
