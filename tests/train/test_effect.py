import pytest

from narrowgauge.train import paired_effect


def test_the_interval_is_students_for_known_numbers() -> None:
    # Differences -1, -2, -3: mean -2, standard deviation 1, t(0.975; 2) = 4.302653.
    effect = paired_effect("loss", treatment=[1.0, 1.0, 1.0], control=[2.0, 3.0, 4.0])
    half = 4.302653 / 3**0.5
    assert (effect.treatment, effect.control, effect.difference, effect.n) == (1.0, 3.0, -2.0, 3)
    assert (effect.low, effect.high) == pytest.approx((-2 - half, -2 + half), abs=1e-6)
    assert not effect.is_below_zero


def test_a_clear_effect_is_below_zero_and_reads_as_a_line() -> None:
    effect = paired_effect("loss", treatment=[1.0, 2.0, 3.0], control=[2.0, 3.01, 4.0])
    assert effect.is_below_zero
    assert str(effect).startswith("loss: 2.0000 against 3.0033, difference -1.0033 (95% interval -1.0")


@pytest.mark.parametrize(("treatment", "control"), [([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])])
def test_too_few_or_unpaired_values_are_refused(treatment: list[float], control: list[float]) -> None:
    with pytest.raises(ValueError, match="treatment, control: expected the same number of values, at least 2"):
        paired_effect("loss", treatment, control)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_an_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence: expected a number in"):
        paired_effect("loss", [1.0, 2.0], [2.0, 3.0], confidence=confidence)
