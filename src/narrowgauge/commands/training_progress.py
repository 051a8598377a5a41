"""One progress bar over the steps of all runs of a suite that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Show = Callable[[int, int, str], None]
"""show(done, total, what is at work), as `numerics_progress.progress` gives it."""


class RunsProgress:
    """Moves the bar: `logger(label)` is the logger of the run that begins, `finished(count)` how many runs are done,
    those of other processes included. steps: of one run; runs: how many there are."""

    def __init__(self, show: Show, steps: int, runs: int, done: int) -> None:
        self._show, self._steps, self._runs, self._done = show, steps, runs, done

    def logger(self, label: str) -> RunProgress:
        """The logger of a run."""
        return RunProgress(self, label)

    def finished(self, count: int) -> None:
        """`count` runs are done."""
        self._done = count
        self.at(0, "")

    def at(self, step: int, text: str) -> None:
        """The present run has done `step` steps."""
        total = self._steps * self._runs
        self._show(min(self._done * self._steps + step, total), total, text)


class RunProgress:
    """A logger that moves the bar of all runs."""

    def __init__(self, progress: RunsProgress, label: str) -> None:
        self._progress, self._label, self._loss = progress, label, ""

    def start(self, first: int, last: int) -> None:
        """Shows the run's name."""
        self._progress.at(first, self._label)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the step and the last validation loss."""
        if "val_loss" in metrics:
            self._loss = f", validation {metrics['val_loss']:.4f}"
        self._progress.at(step, f"{self._label}: loss {metrics['loss']:.4f}{self._loss}")

    def stop(self) -> None:
        """Nothing to close."""
