import csv
import math
from pathlib import Path

import pytest

from narrowgauge.train.loggers import CsvLogger


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, first: int, steps: dict[int, dict[str, float]]) -> None:
    logger = CsvLogger(path)
    logger.start(first, max(steps, default=first))
    for step, metrics in steps.items():
        logger.log(step, metrics)
    logger.stop()


def test_a_row_a_step_whose_numbers_read_back_exactly(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", 0, {1: {"loss": 0.1}, 2: {"loss": math.nan}, 3: {"loss": 1e-300}})
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.1\n2,nan\n3,1e-300\n"


def test_a_metric_that_appears_later_gets_a_column(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", 0, {1: {"loss": 3.0}, 2: {"val_loss": 4.0, "loss": 2.0}, 3: {"loss": 1.0}})
    assert (tmp_path / "log.csv").read_text() == "step,loss,val_loss\n1,3.0,\n2,2.0,4.0\n3,1.0,\n"


def test_names_with_commas_and_quotes_survive(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", 0, {1: {'a,"b': 1.0}})
    assert rows_of(tmp_path / "log.csv") == [{"step": "1", 'a,"b': "1.0"}]


def test_a_resumed_run_drops_the_steps_that_are_done_again_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss,val_loss\n1,3.0,\n2,2.0,5.0\n3,1.0,\n4,0")
    write(path, 2, {3: {"loss": 0.5}})
    assert path.read_text() == "step,loss,val_loss\n1,3.0,\n2,2.0,5.0\n3,0.5,\n"
    write(path, 0, {})
    assert path.read_text() == "step\n"


@pytest.mark.parametrize("content", ["dear diary\n", "", "loss,step\n1,2\n", "no newline"])
def test_a_file_that_is_no_table_of_a_log_is_never_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "diary"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"path: line 1 of .*diary is not the head of a log's table"):
        CsvLogger(path).start(0, 1)
    assert path.read_text() == content


def test_it_needs_a_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="called before start"):
        CsvLogger(tmp_path / "log").log(1, {})
