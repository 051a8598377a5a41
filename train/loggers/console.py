"""Metrics for the person who watches."""

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from narrowgauge.train.loggers.base import Values


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
