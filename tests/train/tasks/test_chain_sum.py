import pytest

from narrowgauge.train.tasks import (
    chain_sum,
    chain_sum_answer,
    chain_sum_digits,
    chain_sum_is_right,
    chain_sum_is_well_formed,
    chain_sum_lengths,
    chain_sum_prompt,
)


def test_the_format_is_what_it_says() -> None:
    assert chain_sum_prompt([3, 5, 7, 1], 28) == b"3571|28:"
    assert chain_sum_answer([3, 5, 7, 1], [0, 2, 2]) == b"3+5=8;..8+7=5;..5+1=6;#6"
    assert chain_sum_digits(b"3571|28:") == (3, 5, 7, 1)


def test_every_example_is_right_and_well_formed_and_its_length_free() -> None:
    split = chain_sum(400, 50, seed=0)
    examples = split.train + split.validation
    assert all(
        chain_sum_is_right(e.prompt, e.answer) and chain_sum_is_well_formed(e.prompt, e.answer) for e in examples
    )
    lengths = {len(example.answer) + 1 for example in examples}
    assert lengths == set(range(21, 34))
    assert chain_sum_lengths() == (21, 33)
    assert {int(example.prompt[5:7]) for example in examples} == set(range(21, 34))


def test_no_row_of_digits_is_in_both_parts_whatever_its_budget() -> None:
    split = chain_sum(900, 100, seed=0, num_digits=3)
    assert len({example.prompt[:3] for example in split.train + split.validation}) == 1000


@pytest.mark.parametrize(
    ("completion", "right", "well_formed"),
    [
        (b"3+5=8;8+7=5;5+1=6;#6", True, True),
        (b"3+5=8;8+7=5;5+1=6;#7", False, True),
        (b"#6", True, False),
        (b"....3+5=9;.9+7=6;6+1=7;#6", True, True),
        (b"3+5=8;8+7=5;#6", True, False),
        (b"3+5=8;8+7=5;5+1=6;#6.", False, False),
        (b"3+5=8;8+7=5;5+1=6;", False, False),
        (b"", False, False),
    ],
)
def test_right_and_well_formed_are_two_things(completion: bytes, right: bool, well_formed: bool) -> None:
    prompt = chain_sum_prompt([3, 5, 7, 1], 28)
    assert chain_sum_is_right(prompt, completion) is right
    assert chain_sum_is_well_formed(prompt, completion) is well_formed


def test_impossible_budgets_and_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        chain_sum_prompt([1, 2], 100)
    with pytest.raises(ValueError, match="num_digits"):
        chain_sum(1, 1, seed=0, num_digits=1)
