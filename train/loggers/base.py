"""What a logger is, several as one, and the one that keeps everything in memory."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

Values = Mapping[str, float]


@runtime_checkable
class Logger(Protocol):
    """``start`` before the first step, ``log`` after each (``step`` counts from 1), ``stop`` at the end."""

    def start(self, first: int, last: int) -> None: ...

    def log(self, step: int, metrics: Values) -> None: ...

    def stop(self) -> None: ...


class Loggers:
    """Several loggers as one, called in order."""

    def __init__(self, *loggers: Logger) -> None:
        for logger in loggers:
            if not isinstance(logger, Logger):
                raise TypeError(f"logger: expected start, log and stop, got {type(logger).__name__}")
        self.loggers = loggers

    def start(self, first: int, last: int) -> None:
        for logger in self.loggers:
            logger.start(first, last)

    def log(self, step: int, metrics: Values) -> None:
        for logger in self.loggers:
            logger.log(step, dict(metrics))

    def stop(self) -> None:
        for logger in self.loggers:
            logger.stop()


class History:
    """Keeps everything in memory: ``history["loss"]`` are values, ``history.steps("loss")`` their steps."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []

    def start(self, first: int, last: int) -> None:
        """Forget what a resumed run does again."""
        self.records = [record for record in self.records if record["step"] <= first]

    def log(self, step: int, metrics: Values) -> None:
        self.records.append({"step": step, **metrics})

    def stop(self) -> None:
        """Nothing to close."""

    def __getitem__(self, name: str) -> list[float]:
        """Values of one metric, at the steps that have it; ``KeyError`` if none has."""
        values = [record[name] for record in self.records if name in record]
        if not values:
            raise KeyError(name)
        return values

    def steps(self, name: str) -> list[int]:
        """The steps that have the metric."""
        return [int(record["step"]) for record in self.records if name in record]
