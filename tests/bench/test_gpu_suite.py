"""The GPU suite leaves few files, whatever becomes of its steps, and says what became of them."""

from __future__ import annotations

import inspect
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from narrowgauge.bench import Row, SuiteResult, Timing, gpu_suite, write_result
from narrowgauge.bench.gpu_suite import SUITES, Folder, Suite, all_tasks, main
from narrowgauge.bench.result_files import read_results
from narrowgauge.bench.time_budget import Task

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = Row("copy", Timing(1.0, 1.0, 1.0, 1.0, 9, 1), 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "out", tmp_path / "parts")


def test_steps_come_in_order_of_importance(folder: Folder) -> None:
    names = [task.name for task in all_tasks(folder, "cuda", quick=False, root=ROOT)]
    assert [name.split()[0] for name in dict.fromkeys(names)] == [
        "tests", "tests", "quantize", *["gemm"] * 4, "quantize", "linear", "optim", "activation", "train", "recipes",
        "rooflines",
    ]  # fmt: skip


def test_every_step_is_for_the_device(folder: Folder) -> None:
    for task in all_tasks(folder, "cuda:1", quick=False, root=ROOT):
        if task.name != "rooflines":
            assert any("cuda:1" in word for word in task.command), task.name


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_options_are_those_of_the_suite(suite: Suite) -> None:
    accepted = inspect.signature(import_module(f"narrowgauge.bench.{suite.module}").run_suite).parameters
    for options in (suite.options, suite.quick or {}):
        assert options.keys() <= accepted.keys()


def test_without_a_checkout_there_are_no_tests_and_that_is_said(folder: Folder, tmp_path: Path) -> None:
    first = next(all_tasks(folder, "cuda", quick=False, root=tmp_path))
    assert "tests/kernels: not there" in first.command


def scripted(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_results_are_put_together_and_a_step_that_fails_stops_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"

    def steps(folder: Folder, device: str, *, quick: bool, root: Path) -> list[Task]:
        part = write_result(SuiteResult("quantize", {}, "copy", [ROW]), tmp_path / "made.json")
        content = {**json.loads(part.read_text()), "tuning": [{"op": "quantize"}]}
        kept = json.dumps({"test": "t", "outcome": "failed", "seconds": 1.0, "message": "m"})
        return [
            Task("tests of kernels", scripted(f"open({str(folder.part('tests of kernels', 'jsonl'))!r}, 'w').write("
                                              f"{kept + chr(10)!r}); raise SystemExit(1)")),
            Task("quantize", scripted(f"open({str(folder.part('quantize'))!r}, 'w').write({json.dumps(content)!r});"
                                      "print('a word')")),
            Task("linear", scripted("import time; time.sleep(60)"), 0.2),
            Task("rooflines", "matplotlib is not installed"),
        ]  # fmt: skip

    monkeypatch.setattr(gpu_suite, "all_tasks", steps)
    monkeypatch.setattr(gpu_suite, "RESERVE_SECONDS", 22.0)
    assert main(["--out", str(out), "--device", "cpu", "--minutes", "0.5"]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "results.json", "tests.json", "tuning.json"]
    content = json.loads((out / "results.json").read_text())
    assert [step["status"] for step in content["steps"]] == ["failed", "done", "out of time", "not run"]
    assert content["machine"]["torch"]
    assert read_results(out / "results.json")[0].rows == [ROW]
    assert json.loads((out / "tests.json").read_text())["tests of kernels"]["counts"]["failed"] == 1
    assert json.loads((out / "tuning.json").read_text()) == {"quantize": [{"op": "quantize"}]}
    assert "a word" in (out / "log.txt").read_text()
    assert "=== linear, at" in (out / "log.txt").read_text()
    assert "out of time  linear  was ended after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--minutes", "0.1"], "--minutes: expected 0.5 or more, got 0.1"),
     (["--minutes", "nan"], "--minutes: expected 0.5 or more"),
     (["--device", "cuda"], "got 'cuda', accepted here: cpu")],
)  # fmt: skip
def test_mistakes_are_explained(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run_on_the_cpu_has_every_suite(tmp_path: Path) -> None:
    out = tmp_path / "out"
    status = main(["--out", str(out), "--device", "cpu", "--minutes", "4", "--quick", "--root", str(ROOT)])
    content = json.loads((out / "results.json").read_text())
    assert {step["name"]: step["status"] for step in content["steps"] if step["status"] != "done"} == {}
    assert status == 0
    assert [result.suite for result in read_results(out / "results.json")] == [
        "quantize", "gemm", "linear", "optim", "activation", "train",
    ]  # fmt: skip
    assert content["recipes"]["comparisons"]
    tests = json.loads((out / "tests.json").read_text())
    assert all(found["counts"]["passed"] > 0 and not found["failed"] for found in tests.values())
    assert len(list(out.iterdir())) <= 8
