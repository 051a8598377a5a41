"""Result files come back as what was written, and other files are refused with the reason."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from narrowgauge.bench import Row, SuiteResult, Timing, write_result
from narrowgauge.bench.result_files import read_results

RESULTS = Path(__file__).resolve().parent.parent.parent / "bench" / "results"
TIMING = Timing(0.5, 0.4, 0.6, 0.3, repetitions=9, calls=2)
RESULT = SuiteResult("s", {"size": 8}, "copy", [Row("copy", TIMING, 1.0, {"gb_per_s": 2.0}, "a note")],
                     {"theirs": "is not installed"}, ceilings={"copy_gb_per_s": 3.0})  # fmt: skip


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    assert read_results(write_result(RESULT, tmp_path / "s.json")) == [RESULT]


def test_figures_that_json_cannot_hold_are_left_out(tmp_path: Path) -> None:
    result = SuiteResult("s", {}, "copy", [Row("copy", TIMING, 1.0, {"sqnr_db": math.inf})])
    assert read_results(write_result(result, tmp_path / "s.json"))[0].rows[0].figures == {}


def test_a_combined_file_has_several(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"suites": [RESULT.to_dict(), RESULT.to_dict()]}))
    assert read_results(path) == [RESULT, RESULT]


@pytest.mark.parametrize("name", ["quantize", "formats", "gemm", "linear", "activation", "optim", "train"])
def test_the_results_that_are_kept_can_be_read(name: str) -> None:
    (result,) = read_results(RESULTS / f"{name}-cpu.json")
    assert result.suite == name
    assert any(row.name.endswith(result.baseline) for row in result.rows)  # several shapes each have one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"suite": "x"}', "'rows' is missing"),
        ("[1]", "expected what `narrowgauge bench SUITE --out`"),
        ('{"suites": [3]}', "expected what `narrowgauge bench SUITE --out`"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "x.json")


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_result(SuiteResult("s", {}, "copy", [RESULT.rows[0]] * 2), tmp_path / "s.json")
    with pytest.raises(ValueError, match="s: two rows are called copy"):
        read_results(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [("{}", "'rows' is missing"), ("[1, 2]", "something else is there"), ('{"rows": [1]}', "something else is there")],
)
def test_other_json_is_refused_in_plain_words(content: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"rows with their timings; {what}"):
        read_results(path)
