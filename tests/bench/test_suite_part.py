"""A part runs its suite with configurations measured, and keeps what there is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from narrowgauge.bench import Row, SuiteResult, Timing, suite_part
from narrowgauge.bench.result_files import read_results
from narrowgauge.kernels import tuning

ROW = Row("copy", Timing(1.0, 1.0, 1.0, 1.0, 9, 1), 1.0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What a stand-in for a suite was called with."""
    seen: dict = {}

    def run_suite(size: int = 1, *, device: str = "cpu", save=None) -> SuiteResult:
        seen.update(size=size, device=device, measuring=tuning._state["measuring"])
        result = SuiteResult("stand-in", {}, "copy", [ROW])
        save(result)
        if size == 0:
            raise AssertionError("codes: 1 of 8 elements differ")
        return result

    monkeypatch.setattr(suite_part, "import_module", lambda name: SimpleNamespace(run_suite=run_suite))
    return seen


def test_the_suite_runs_with_its_options_and_measured_configurations(asked: dict, tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    assert suite_part.main(["stand_in", '{"size": 3, "device": "cpu"}', str(path)]) == 0
    assert asked == {"size": 3, "device": "cpu", "measuring": True}
    assert not tuning._state["measuring"]
    assert read_results(path)[0].rows == [ROW]
    assert json.loads(path.read_text())["tuning"] == [choice._asdict() for choice in tuning.decisions()]


def test_what_was_found_before_a_wrong_result_is_kept(asked: dict, tmp_path: Path, capsys) -> None:
    path = tmp_path / "part.json"
    assert suite_part.main(["stand_in", '{"size": 0}', str(path)]) == 1
    assert "codes: 1 of 8 elements differ" in capsys.readouterr().out
    assert read_results(path)[0].rows == [ROW]


def test_a_competitor_of_ours_that_is_wrong_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    class Partly(SuiteResult):
        def own_wrong(self) -> list[str]:
            return ["2x3x4: e4m3fn/row"]

    run_suite = lambda device: Partly("stand-in", {}, "copy", [ROW])  # noqa: E731
    monkeypatch.setattr(suite_part, "import_module", lambda name: SimpleNamespace(run_suite=run_suite))
    path = tmp_path / "part.json"
    assert suite_part.main(["stand_in", '{"device": "cpu"}', str(path)]) == 1
    assert "2x3x4: e4m3fn/row" in capsys.readouterr().out
    assert read_results(path)[0].rows == [ROW]
