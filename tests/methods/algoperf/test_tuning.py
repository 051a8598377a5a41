import math

import pytest

from narrowgauge.methods.algoperf import Span, quasi_random
from narrowgauge.methods.algoperf.tuning import radical_inverse

SPACE = {"lr": Span(1e-4, 1e-1), "decay": Span(0.0, 1.0, log=False), "beta": Span(0.9, 0.9)}


def test_digits_are_mirrored_at_the_point() -> None:
    assert [radical_inverse(index, 2) for index in range(5)] == [0, 0.5, 0.25, 0.75, 0.125]
    assert radical_inverse(5, 3) == pytest.approx(2 / 3 + 1 / 9)  # 12 in base 3


def test_points_stay_in_the_space_and_a_span_of_one_value_has_it() -> None:
    for point in quasi_random(SPACE, 40, seed=1):
        assert 1e-4 <= point["lr"] <= 1e-1
        assert 0 <= point["decay"] <= 1
        assert point["beta"] == 0.9


def test_a_logarithmic_span_is_covered_evenly_in_the_logarithm() -> None:
    for seed in range(5):
        logs = [math.log10(point["lr"]) for point in quasi_random(SPACE, 27, seed)]
        counts = [sum(low <= log < low + 1 for log in logs) for low in (-4, -3, -2)]
        assert all(7 <= count <= 11 for count in counts), counts


def test_the_seed_alone_decides() -> None:
    assert quasi_random(SPACE, 5, seed=1) == quasi_random(SPACE, 5, seed=1) != quasi_random(SPACE, 5, seed=2)
    assert quasi_random(SPACE, 5, seed=1) == quasi_random(SPACE, 9, seed=1)[:5]


def test_an_empty_space_has_one_point() -> None:
    assert quasi_random({}, 1, seed=0) == [{}]


def test_impossible_spans_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="low, high: expected finite numbers in this order"):
        Span(2.0, 1.0)
    with pytest.raises(ValueError, match="low: expected a number above 0 for a logarithmic span"):
        Span(0.0, 1.0)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        quasi_random(SPACE, 0, seed=0)
    with pytest.raises(ValueError, match="space: expected at most 10 hyperparameters, got 11"):
        quasi_random({str(index): Span(1, 2) for index in range(11)}, 1, seed=0)
