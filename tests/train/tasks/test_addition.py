import re

import pytest

from narrowgauge.train.tasks import addition, addition_example, reasoning_and_result, with_wrong_digits


def test_the_format_is_what_it_says() -> None:
    example = addition_example(38, 47)
    assert (example.prompt, example.answer) == (b"38+47=", b"8+7=15;3+4+1=08;#085")
    assert addition_example(5, 0, digits=3).answer == b"5+0=05;0+0+0=00;0+0+0=00;#0005"


def test_every_step_and_every_result_is_right() -> None:
    for example in addition(200, 50, seed=0, digits=3).train:
        left, right = map(int, re.findall(rb"\d+", example.prompt))
        reasoning, result = reasoning_and_result(example.answer)
        assert int(result) == left + right
        carry = 0
        for step in reasoning.split(b";")[:-1]:
            terms, total = step.split(b"=")
            numbers = [int(term) for term in terms.split(b"+")]
            assert numbers[2:] in ([], [carry])
            assert sum(numbers) == int(total)
            carry = int(total) // 10


def test_it_is_a_pure_function_of_the_seed() -> None:
    assert addition(20, 5, seed=3) == addition(20, 5, seed=3)
    assert addition(20, 5, seed=3) != addition(20, 5, seed=4)


def test_all_problems_can_be_had() -> None:
    split = addition(90, 10, seed=0, digits=1)
    assert len({example.prompt for example in split.train + split.validation}) == 100


def test_numbers_that_are_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="right"):
        addition_example(1, 100)


def test_wrong_digits_leave_prompt_result_and_form_alone() -> None:
    example = addition_example(38, 47)
    wrong = with_wrong_digits(example, 1.0, seed=0)
    assert wrong.prompt == example.prompt
    assert reasoning_and_result(wrong.answer)[1] == b"085"
    assert re.sub(rb"\d", b"d", wrong.answer) == re.sub(rb"\d", b"d", example.answer)
    pairs = list(zip(*(reasoning_and_result(e.answer)[0] for e in (example, wrong)), strict=True))
    assert all((a != b) == chr(a).isdigit() for a, b in pairs)


def test_wrong_digits_have_their_share() -> None:
    examples = addition(300, 1, seed=0).train
    wrong = [with_wrong_digits(example, 0.4, seed=1) for example in examples]
    changed = sum(a != b for e, w in zip(examples, wrong, strict=True) for a, b in zip(e.answer, w.answer, strict=True))
    assert changed == pytest.approx(0.4 * 9 * 300, abs=127)  # nine digits in a chain; 5 sigma
    assert with_wrong_digits(examples[0], 0.0, seed=1) == examples[0]
    assert with_wrong_digits(examples[0], 0.4, seed=1) == wrong[0]
