import pytest

from narrowgauge.train.tasks import Draws, Example
from narrowgauge.train.tasks.split import distinct, split_of


def make(draws: Draws) -> Example:
    return Example(b"%d|%d" % (draws.below(10), draws.below(10)), b"x")


def test_no_problem_is_in_both_parts_and_none_comes_twice() -> None:
    split = split_of(make, 60, 40, Draws(0, "all of them"))
    assert (len(split.train), len(split.validation)) == (60, 40)
    assert len({example.prompt for example in split.train + split.validation}) == 100


def test_a_key_may_be_a_part_of_the_prompt() -> None:
    split = split_of(make, 6, 4, Draws(0, "key"), key_bytes=1)
    assert len({example.prompt[:1] for example in split.train + split.validation}) == 10


def test_more_problems_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="10 different problems"):
        distinct(lambda draws: draws.below(10), int, 11, Draws(0, "too many"))


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="num_validation"):
        split_of(make, 1, 0, Draws(0, "none"))
