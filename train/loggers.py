"""Where a run's metrics go. Loggers read numbers; none of them changes one."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Values = Mapping[str, float]
_LINE_START = '{"step": '


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


class JsonlLogger:
    """One JSON object a line and step; a metric that is not finite is ``null``.

    A run that starts at step 0 begins a new file. A resumed run keeps the lines up to its step and drops the
    later ones, which it will write again. ``ValueError`` at the start when the file exists and is no such
    log.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def start(self, first: int, last: int) -> None:
        kept = self._lines_until(first) if self.path.exists() else []
        self._file = self.path.open("w", encoding="utf-8")
        self._file.writelines(kept)

    def _lines_until(self, step: int) -> list[str]:
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        torn = bool(lines) and not lines[-1].endswith("\n")  # by a kill
        if torn and lines[-1][: len(_LINE_START)] == _LINE_START[: len(lines[-1])]:
            lines.pop()
        kept = []
        for number, line in enumerate(lines, start=1):
            try:
                line_step = json.loads(line)["step"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"path: line {number} of {self.path} is not a log's; give another path") from error
            if line_step <= step:
                kept.append(line)
        return kept

    def log(self, step: int, metrics: Values) -> None:
        if self._file is None:
            raise RuntimeError("JsonlLogger.log: called before start")
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()

    def stop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def describe(metrics: Values) -> str:
    """The metrics that a person watches, on one line."""
    parts = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    parts += [f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith("val_loss")]
    if "tokens_per_s" in metrics:
        parts.append(f"{metrics['tokens_per_s']:,.0f} tokens/s")
    if "memory_bytes" in metrics:
        parts.append(f"{metrics['memory_bytes'] / 2**20:,.0f} MiB")
    return "  ".join(parts)


class ConsoleLogger:
    """To stderr (or ``stream``): a progress bar in a terminal, elsewhere a line every ``every`` steps.

    Steps that were evaluated and the last step always get a line; the bar shows the last validation loss.
    """

    def __init__(self, label: str = "train", *, every: int = 50, stream: TextIO | None = None) -> None:
        if every < 1:
            raise ValueError(f"every: expected at least 1, got {every}")
        self.label, self.every, self.stream = label, every, stream
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last = 0
        self._validation: dict[str, float] = {}

    def start(self, first: int, last: int) -> None:
        self._last, self._validation = last, {}
        console = Console(file=self._stream())
        if not console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[metrics]}"), console=console)
        self._task = self._progress.add_task(self.label, total=last, completed=first, metrics="")
        self._progress.start()

    def log(self, step: int, metrics: Values) -> None:
        validation = {name: value for name, value in metrics.items() if name.endswith("val_loss")}
        self._validation |= validation
        if self._progress is not None:
            line = describe({**self._validation, **metrics})
            self._progress.update(self._task, completed=step, metrics=line)
        elif validation or step % self.every == 0 or step == self._last:
            print(
                f"{self.label}  step {step}/{self._last}  {describe(metrics)}",
                file=self._stream(),
                flush=True,
            )

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _stream(self) -> TextIO:
        # Looked up late: whoever redirects sys.stderr expects the logger to follow.
        return sys.stderr if self.stream is None else self.stream
