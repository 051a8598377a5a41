"""Programs one after the other within a budget of time: whoever fails or takes too long does not stop the others.

The tasks come in order of importance, each with a weight. When its turn comes, a task may take

    time left · weight / sum of the weights of all that are to run yet

so that what one does not use, the later ones have. A task that takes longer is ended, its children too; nothing lasts
beyond the budget.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LEAST_SECONDS = 1.0
"""A task that may take less is not started."""


@dataclass(frozen=True)
class Task:
    """command: program and arguments, or the reason why it cannot run. weight: its part of the time, above 0."""

    name: str
    command: Sequence[str] | str
    weight: float = 1.0


@dataclass(frozen=True)
class Done:
    """What became of a task. status: "done", "failed", "out of time" or "not run". reason: why it is not done."""

    name: str
    status: str
    seconds: float
    allowed_seconds: float
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the task did what it had to."""
        return self.status == "done"


Run = Callable[[Sequence[str], float], int | None]
"""(command, seconds) → exit status; None where it was ended after so many seconds."""


def run_tasks(
    tasks: Sequence[Task],
    seconds: float,
    run: Run,
    *,
    started: Callable[[Task, float], None] = lambda task, allowed: None,
    finished: Callable[[Done], None] = lambda done: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Done]:
    """Runs the tasks in order within `seconds`; what became of each. started and finished are told as it goes.

    ValueError for a weight that is not above 0.
    """
    for task in tasks:
        if not task.weight > 0:
            raise ValueError(f"weight: expected above 0, got {task.weight} of {task.name}")
    end = clock() + seconds
    results = []
    for number, task in enumerate(tasks):
        left = max(0.0, end - clock())
        waiting = [later.weight for later in tasks[number:] if not isinstance(later.command, str)]
        allowed = left * task.weight / max(sum(waiting), task.weight)
        started(task, allowed)
        results.append(_run_one(task, allowed, run, clock))
        finished(results[-1])
    return results


def _run_one(task: Task, allowed: float, run: Run, clock: Callable[[], float]) -> Done:
    if isinstance(task.command, str):
        return Done(task.name, "not run", 0.0, allowed, task.command)
    if allowed < LEAST_SECONDS:
        return Done(task.name, "not run", 0.0, allowed, "no time is left")
    start = clock()
    status = run(task.command, allowed)
    seconds = clock() - start
    if status is None:
        return Done(task.name, "out of time", seconds, allowed, f"was ended after {seconds:.0f} s")
    if status:
        return Done(task.name, "failed", seconds, allowed, f"exit status {status}")
    return Done(task.name, "done", seconds, allowed)


def run_program(command: Sequence[str], seconds: float, log: Path) -> int | None:
    """Runs a program, stdout and stderr appended to `log`; its exit status, None where it was ended after `seconds`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and, where sessions are known, what it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
