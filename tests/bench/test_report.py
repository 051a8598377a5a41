"""Result files hold hardware and versions, and are strict JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch

from narrowgauge.bench import Row, SuiteResult, Timing, describe_machine, write_result

TIMING = Timing(median=0.5, low=0.4, high=0.6, best=0.3, repetitions=9, calls=2)


@pytest.fixture
def result() -> SuiteResult:
    rows = [Row("copy", TIMING, 1.0), Row("ours", TIMING, 1.5, {"gb_per_s": 2.5, "sqnr_db": math.inf}, "a note")]
    return SuiteResult("suite", {"size": 8}, "copy", rows, {"theirs": "is not installed"})


def test_result_file_has_hardware_versions_and_time_of_writing(result, tmp_path) -> None:
    content = json.loads(write_result(result, tmp_path / "new" / "result.json").read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["written"].endswith("+00:00")
    assert content["rows"][1]["timing"] == {
        "median": 0.5,
        "low": 0.4,
        "high": 0.6,
        "best": 0.3,
        "repetitions": 9,
        "calls": 2,
        "spread": pytest.approx(0.4),
    }


def test_what_json_cannot_hold_becomes_null(result) -> None:
    assert result.to_dict()["rows"][1]["figures"] == {"gb_per_s": 2.5, "sqnr_db": None}


def test_a_result_replaces_an_older_one_whole(result, tmp_path) -> None:
    path = tmp_path / "result.json"
    path.write_text("older")
    write_result(result, path)
    assert json.loads(path.read_text())["suite"] == "suite"
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


def test_machine_names_what_was_measured_on() -> None:
    machine = describe_machine()
    assert machine.threads == torch.get_num_threads()
    assert machine.cores >= 1
    assert machine.cpu in str(machine)
    assert (machine.gpu is None) == (not torch.cuda.is_available())
