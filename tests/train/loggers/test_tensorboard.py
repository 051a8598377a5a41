import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from narrowgauge.train import Logger
from narrowgauge.train.loggers import TensorBoardLogger, tensorboard


class Writer:
    """Stands for torch's SummaryWriter."""

    made: list["Writer"]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """The writers that are made, in a world where tensorboard is installed."""
    Writer.made = []
    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: object())
    return Writer.made


def test_every_metric_is_a_scalar_of_its_step(writers: list[Writer], tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert isinstance(logger, Logger)
    logger.start(4, 6)
    logger.log(5, {"loss": 1.5, "lr": 0.1})
    logger.stop()
    (writer,) = writers
    assert (writer.folder, writer.purge_step, writer.closed) == (str(tmp_path), 5, True)
    assert writer.scalars == [("loss", 1.5, 5), ("lr", 0.1, 5)]


def test_it_needs_a_start(writers: list[Writer], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="called before start"):
        TensorBoardLogger(tmp_path).log(1, {})


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_without_tensorboard_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"pip install 'narrowgauge\[tensorboard\]'"):
        TensorBoardLogger(tmp_path)
