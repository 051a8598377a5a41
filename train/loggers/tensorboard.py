"""Metrics for TensorBoard, an extra: ``pip install 'narrowgauge[tensorboard]'``."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from narrowgauge.train.loggers.base import Values


class TensorBoardLogger:
    """One scalar a metric and step, as event files in ``folder``.

    A resumed run tells TensorBoard to hide what was written after its step. Raises ``ImportError`` with the way out
    where tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        if find_spec("tensorboard") is None:
            raise ImportError("TensorBoardLogger: needs tensorboard; pip install 'narrowgauge[tensorboard]'")
        self.folder = Path(folder)
        self._writer: Any = None

    def start(self, first: int, last: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=first + 1)

    def log(self, step: int, metrics: Values) -> None:
        if self._writer is None:
            raise RuntimeError("TensorBoardLogger.log: called before start")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def stop(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
