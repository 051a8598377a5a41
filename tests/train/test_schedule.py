import math
from typing import Any

import pytest

from narrowgauge.train import Constant, WarmupCosine


def test_warmup_rises_linearly_to_the_peak_at_its_last_step() -> None:
    schedule = WarmupCosine(peak=1.0, steps=100, warmup=10)
    assert [schedule(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_cosine_is_halfway_in_the_middle_and_final_at_the_last_step() -> None:
    schedule = WarmupCosine(peak=2.0, steps=110, warmup=10, final_ratio=0.1)
    assert schedule(59) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert schedule(34) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert schedule(109) == pytest.approx(0.2)


def test_the_final_value_is_kept_after_the_end() -> None:
    schedule = WarmupCosine(peak=1.0, steps=20, warmup=5, final_ratio=0.25)
    assert schedule(20) == schedule(1000) == pytest.approx(0.25)


def test_the_rate_never_rises_after_the_warmup() -> None:
    schedule = WarmupCosine(peak=1.0, steps=50, warmup=7, final_ratio=0.0)
    rates = [schedule(step) for step in range(6, 60)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_a_run_that_is_all_warmup_or_has_none_works(warmup: int) -> None:
    rates = [WarmupCosine(peak=1.0, steps=3, warmup=warmup)(step) for step in range(5)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[4] == pytest.approx(0.1)


def test_constant_is_constant() -> None:
    assert {Constant(0.3)(step) for step in (0, 1, 10**6)} == {0.3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peak": -1.0, "steps": 5}, "peak: expected a finite number of at least 0, got -1.0"),
        ({"peak": 1.0, "steps": 0}, "steps: expected at least 1, got 0"),
        ({"peak": 1.0, "steps": 5, "warmup": 6}, "warmup: expected 0 … steps=5, got 6"),
        (
            {"peak": 1.0, "steps": 5, "final_ratio": 1.5},
            r"final_ratio: expected a number in \[0, 1\], got 1.5",
        ),
    ],
)
def test_impossible_schedules_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**arguments)


@pytest.mark.parametrize("schedule", [Constant(1.0), WarmupCosine(1.0, 5)])
def test_a_negative_step_is_refused(schedule: Constant | WarmupCosine) -> None:
    with pytest.raises(ValueError, match="step: expected 0 or more, got -1"):
        schedule(-1)


def test_a_rate_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="value: expected a finite number"):
        Constant(math.nan)
