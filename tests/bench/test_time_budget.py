"""Tasks share the time, none stops the others, and nothing lasts beyond the budget."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from narrowgauge.bench.time_budget import Task, run_program, run_tasks


class Machine:
    """A clock that moves as long as a task says, and what it was asked to run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, float]] = []

    def run(self, command: Sequence[str], seconds: float) -> int | None:
        name, takes, status = command
        self.log.append((name, seconds))
        self.now += min(float(takes), seconds)
        return None if float(takes) > seconds else int(status)

    def clock(self) -> float:
        return self.now


def tasks(*parts: tuple[str, float, int, float]) -> list[Task]:
    return [Task(name, (name, str(takes), str(status)), weight) for name, takes, status, weight in parts]


def run(machine: Machine, listed: list[Task], seconds: float, **told):
    return run_tasks(listed, seconds, machine.run, clock=machine.clock, **told)


def test_time_is_shared_by_weight_and_what_is_left_goes_on() -> None:
    machine = Machine()
    done = run(machine, tasks(("a", 10, 0, 2.0), ("b", 5, 0, 1.0), ("c", 5, 0, 1.0)), 100)
    assert machine.log == [("a", 50.0), ("b", 45.0), ("c", 85.0)]
    assert [each.status for each in done] == ["done"] * 3
    assert [each.seconds for each in done] == [10.0, 5.0, 5.0]
    assert all(each.ok for each in done)


def test_failures_and_late_ones_do_not_stop_the_rest() -> None:
    machine = Machine()
    done = run(machine, tasks(("fails", 1, 3, 1.0), ("hangs", 1e9, 0, 1.0), ("good", 1, 0, 1.0)), 30)
    assert [(each.status, each.reason) for each in done] == [
        ("failed", "exit status 3"), ("out of time", "was ended after 14 s"), ("done", ""),
    ]  # fmt: skip
    assert [each.ok for each in done] == [False, False, True]


def test_nothing_lasts_beyond_the_budget() -> None:
    machine = Machine()
    done = run(machine, tasks(*(("hangs", 1e9, 0, 1.0) for _ in range(7))), 40)
    assert machine.now == pytest.approx(40)
    assert {each.status for each in done} == {"out of time"}


def test_what_has_no_time_or_cannot_run_is_said() -> None:
    machine = Machine()
    listed = [Task("absent", "is not installed"), *tasks(("a", 5, 0, 1.0), ("b", 1, 0, 1e-6))]
    done = run(machine, listed, 4.0)
    assert [(each.status, each.reason) for each in done] == [
        ("not run", "is not installed"), ("out of time", "was ended after 4 s"), ("not run", "no time is left"),
    ]  # fmt: skip


def test_news_are_told_as_it_goes() -> None:
    news: list[str] = []
    run(Machine(), tasks(("a", 1, 0, 1.0), ("b", 1, 1, 1.0)), 9,
        started=lambda task, allowed: news.append(f"{task.name} {allowed:g}"),
        finished=lambda each: news.append(each.status))  # fmt: skip
    assert news == ["a 4.5", "done", "b 8", "failed"]


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight: expected above 0, got 0.0 of a"):
        run(Machine(), [Task("a", ("a",), 0.0)], 9)


def test_a_program_leaves_its_words_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"
    assert run_program((sys.executable, "-c", code), 20, log) == 4
    assert set(log.read_text().split()) == {"out", "err"}


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are those of POSIX")
def test_a_program_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(2.5); pathlib.Path({str(mark)!r}).write_text('x')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    start = time.monotonic()
    assert run_program((sys.executable, "-c", code), 1.0, tmp_path / "log.txt") is None
    assert time.monotonic() - start < 20
    time.sleep(2.5)
    assert not mark.exists()
