import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowgauge.bench import loop_overhead
from narrowgauge.bench.loop_overhead import LoopOverhead, main, measure
from narrowgauge.train import ByteCorpus


def ticks(seconds: dict[str, float]) -> Callable[[], float]:
    """A clock on which the loops take so long, each in turn the first: hand, trainer, trainer, hand, …"""
    order = itertools.cycle(["hand", "trainer", "trainer", "hand"])
    now, is_start = 0.0, True

    def clock() -> float:
        nonlocal now, is_start
        if not is_start:
            now += seconds[next(order)]
        is_start = not is_start
        return now

    return clock


def test_both_loops_do_the_same_and_the_ratio_is_of_their_times() -> None:
    shown: list[tuple[int, float]] = []
    clock = ticks({"hand": 2.0, "trainer": 3.0})
    result = measure(pairs=3, steps=1, preset="tiny", clock=clock, show=lambda pair, ratio: shown.append((pair, ratio)))
    assert result.ratios == (1.5, 1.5, 1.5)
    assert (result.median, result.quartiles, result.step_seconds) == (1.5, (1.5, 1.5), 2.0)
    assert shown == [(1, 1.5), (2, 1.5), (3, 1.5)]
    assert result.to_dict()["settings"]["preset"] == "tiny"


def test_loops_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(corpus: ByteCorpus, preset: str, total: int) -> Callable[[int], float]:
        return lambda count: 1.0

    monkeypatch.setattr(loop_overhead, "by_trainer", other)
    with pytest.raises(ArithmeticError, match="the loops differ after 1 steps"):
        measure(pairs=2, steps=1, preset="tiny")


@pytest.mark.parametrize(("ratio", "status"), [(1.01, 0), (1.05, 1)])
def test_the_command_says_what_the_trainer_adds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, ratio: float, status: int
) -> None:
    result = LoopOverhead({"preset": "demo"}, (ratio, ratio), 0.1)
    monkeypatch.setattr(loop_overhead, "measure", lambda **settings: result)
    assert main(["--pairs", "2", "--out", str(tmp_path / "result.json")]) == status
    assert f"100.0 ms of CPU; the trainer adds +{100 * (ratio - 1):.2f} %" in capsys.readouterr().out
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["median"], written["ratios"]) == (ratio, [ratio, ratio])
    assert written["machine"]


def test_sizes_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--pairs", "1"])
    assert stopped.value.code == 2
    assert "pairs, steps: expected at least 2 and 1, got 1 and 8" in capsys.readouterr().err
