import json
import math
from pathlib import Path

import pytest

from narrowgauge.train import JsonlLogger


def lines_of(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_writes_a_line_a_step_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "log.jsonl")
    logger.start(0, 2)
    logger.log(1, {"loss": 0.1})
    logger.log(2, {"loss": math.nan})
    logger.stop()
    assert lines_of(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": None}]


def test_jsonl_of_a_resumed_run_drops_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    logger = JsonlLogger(path)
    logger.start(2, 3)
    logger.log(3, {"loss": 0.5})
    logger.stop()
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 3.0), (2, 2.0), (3, 0.5)]


def test_jsonl_of_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one" / "log.jsonl"
    first = JsonlLogger(path)
    first.start(0, 1)
    first.stop()
    path.write_text('{"step": 1, "loss": 3.0}\n')
    logger = JsonlLogger(path)
    logger.start(0, 1)
    logger.stop()
    assert path.read_text() == ""


@pytest.mark.parametrize("content", ["dear diary\n", "[1, 2]\n", '{"loss": 1}\n', "no newline", "\xff\xfe"])
def test_jsonl_never_replaces_a_file_that_is_no_log(tmp_path: Path, content: str) -> None:
    path = tmp_path / "diary"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"path: line 1 of .*diary is not a log's"):
        JsonlLogger(path).start(0, 1)
    assert path.read_text(encoding="latin-1") == content


def test_jsonl_needs_a_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="called before start"):
        JsonlLogger(tmp_path / "log").log(1, {})
