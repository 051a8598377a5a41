import itertools

import pytest

from narrowgauge.train.rl.rewards import (
    Completion,
    band_length,
    exact_match,
    matches_format,
    total_reward,
    triangular_length,
)
from narrowgauge.train.tasks import Example
from narrowgauge.train.tokens import EOS, encode


def written(text: str, *, ended: bool = True) -> Completion:
    return Completion(tuple(encode(text)), ended)


def test_a_completion_knows_whether_it_ended() -> None:
    assert Completion.from_ids([*encode("ab"), EOS]) == Completion((97, 98), ended=True)
    assert Completion.from_ids(encode("ab")) == Completion((97, 98), ended=False)
    assert Completion.from_ids([]) == Completion((), ended=False)
    assert (written("grün").text, len(written("grün"))) == ("grün", 5)


def test_an_exact_match_is_all_of_the_answer_and_an_end() -> None:
    item = Example(prompt=b"1+1=", answer=b"2")
    assert exact_match(item, written("2")) == 1
    assert exact_match(item, written("2", ended=False)) == 0
    assert exact_match(item, written("22")) == 0
    assert exact_match(item, written("")) == 0
    # A sign that text does not show is no part of the answer.
    assert exact_match(item, Completion((50, 256), ended=True)) == 0


def test_a_format_has_to_fit_from_the_first_character_to_the_last() -> None:
    reward = matches_format(r"<think>.*</think>#\d")
    assert reward(None, written("<think>a\nb</think>#7")) == 1
    assert reward(None, written("<think>a</think>#7 ")) == 0
    assert reward(None, written("so <think>a</think>#7")) == 0


def test_the_triangle_has_its_three_corners() -> None:
    assert [triangular_length(length, 8) for length in (0, 4, 8, 12, 16, 17, 100)] == [0, 0.5, 1, 0.5, 0, 0, 0]


@pytest.mark.parametrize("budget", [1, 7, 21, 33.5])
def test_the_triangle_is_symmetric_and_has_no_jumps(budget: float) -> None:
    rewards = [triangular_length(length, budget) for length in range(80)]
    steps = [abs(b - a) for a, b in itertools.pairwise(rewards)]
    assert max(steps) <= 1 / budget + 1e-12
    if budget == int(budget):
        for offset in range(int(budget) + 1):
            low, high = triangular_length(int(budget) - offset, budget), triangular_length(int(budget) + offset, budget)
            assert low == pytest.approx(high, abs=1e-12)


def test_the_band_pays_for_everything_within_the_budget() -> None:
    assert [band_length(length, 8) for length in (0, 4, 8, 12, 16, 20)] == [1, 1, 1, 0.5, 0, 0]


def test_a_budget_has_to_be_above_0() -> None:
    with pytest.raises(ValueError, match="budget: expected"):
        triangular_length(3, 0)


def test_the_total_is_the_weighted_sum() -> None:
    assert total_reward({"right": 1.0, "short": 0.5}, {"short": 0.3}) == pytest.approx(1.15)
    with pytest.raises(ValueError, match="weights: 'shrot' is no reward"):
        total_reward({"right": 1.0}, {"shrot": 0.3})
