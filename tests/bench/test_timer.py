"""The timer measures in turn, repeats what is short, and summarises with quartiles."""

from __future__ import annotations

import pytest

from narrowgauge.bench import Timing, time_interleaved, timer
from narrowgauge.bench.timer import summarize


class Clock:
    """A clock that only moves when a call takes time; `log` has the calls in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def call(self, name: str, seconds: float):
        def run() -> None:
            self.now += seconds
            self.log.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timer, "time", clock)
    return clock


def test_competitors_are_measured_in_turn(clock: Clock) -> None:
    calls = {name: clock.call(name, 1.0) for name in "abc"}
    time_interleaved(calls, repetitions=9, warmup=0)
    assert "".join(clock.log[-27:]) == "abc" * 9


def test_medians_are_those_of_the_calls(clock: Clock) -> None:
    timings = time_interleaved({"fast": clock.call("fast", 0.25), "slow": clock.call("slow", 1.0)}, repetitions=9)
    assert timings["fast"] == Timing(0.25, 0.25, 0.25, 0.25, repetitions=9, calls=1)
    assert timings["slow"].median == 1.0
    assert timings["slow"].spread == 0.0


def test_a_short_call_is_repeated_until_it_lasts(clock: Clock) -> None:
    timing = time_interleaved({"short": clock.call("short", 0.001)}, repetitions=9, min_seconds=0.01)["short"]
    assert timing.calls == 10
    assert timing.median == pytest.approx(0.001)


def test_warmup_is_not_counted(clock: Clock) -> None:
    durations = iter([100.0, 100.0, *[1.0] * 50])

    def call() -> None:
        clock.now += next(durations)

    assert time_interleaved({"first is slow": call}, repetitions=9, warmup=2)["first is slow"].high == 1.0


def test_summary_has_quartiles_and_the_best() -> None:
    timing = summarize([5.0, 1.0, 3.0, 2.0, 4.0], calls=7)
    assert (timing.low, timing.median, timing.high, timing.best) == (2.0, 3.0, 4.0, 1.0)
    assert timing.spread == pytest.approx(2 / 3)
    assert (timing.repetitions, timing.calls) == (5, 7)


def test_too_few_repetitions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"repetitions: .* 9 or more, got 8"):
        time_interleaved({"a": lambda: None}, repetitions=8)


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="competitors: expected at least one"):
        time_interleaved({})


def test_negative_warmup_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup: expected 0 or more, got -1"):
        time_interleaved({"a": lambda: None}, warmup=-1)
