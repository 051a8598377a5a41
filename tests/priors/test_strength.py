"""Schedules of the strength."""

import pytest

from narrowgauge.priors.strength import Cosine, LinearWarmup, Until, scaled_strength, strength_at


def test_the_strength_keeps_its_share_per_parameter() -> None:
    expected = {124e6: 1130, 774e6: 7000, 1e9: 9100, 7e9: 64000, 5.3e6: 48}
    for size, strength in expected.items():
        assert scaled_strength(int(size)) == pytest.approx(strength, rel=0.01)
    assert scaled_strength(200, 0.5) == 100


def test_warm_up_rises_in_equal_steps_and_stays() -> None:
    assert [LinearWarmup(8.0, 4)(step) for step in range(6)] == [2, 4, 6, 8, 8, 8]


def test_cosine_goes_from_start_to_end() -> None:
    schedule = Cosine(10.0, 5, end=2.0)
    assert [schedule(step) for step in (0, 2, 4, 9)] == pytest.approx([10, 6, 2, 2])
    assert Cosine(3.0, 1)(0) == 3.0


def test_a_phase_ends() -> None:
    assert [Until(LinearWarmup(2.0, 2), 3)(step) for step in range(5)] == [1, 2, 2, 0, 0]
    assert Until(7.0, 1)(0) == 7.0


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"peak: got -1\.0"):
        LinearWarmup(-1.0, 3)
    with pytest.raises(ValueError, match="steps: got 0"):
        Cosine(1.0, 0)
    with pytest.raises(ValueError, match="num_parameters: got 0"):
        scaled_strength(0)
    with pytest.raises(ValueError, match="strength: got nan"):
        strength_at(lambda step: float("nan"), 0)
    with pytest.raises(TypeError, match="strength: got None"):
        Until(None, 3)  # type: ignore[arg-type]
