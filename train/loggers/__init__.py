"""Where a run's metrics go. Loggers read numbers; none of them changes one."""

from narrowgauge.train.loggers.base import History, Logger, Loggers, Values
from narrowgauge.train.loggers.console import ConsoleLogger, describe
from narrowgauge.train.loggers.csv_file import CsvLogger
from narrowgauge.train.loggers.jsonl import JsonlLogger
from narrowgauge.train.loggers.tensorboard import TensorBoardLogger

__all__ = [
    "ConsoleLogger",
    "CsvLogger",
    "History",
    "JsonlLogger",
    "Logger",
    "Loggers",
    "TensorBoardLogger",
    "Values",
    "describe",
]
