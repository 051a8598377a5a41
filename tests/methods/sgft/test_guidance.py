import re

import pytest

from narrowgauge.methods.sgft import GuidanceCheck, guidance_examples, lines
from narrowgauge.methods.sgft.experiment import PLAN_CHECK, plan_steps
from narrowgauge.train.tasks import word_problems

GOOD = "1. Find the price of 3 apples.\n2. Add the price of the pear."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("Double it.\n\nThen take away what was eaten.", ""),
        ("Step 1: count the 12 boxes\nStep 2: multiply by the number in each", ""),
        ("1) Turn km into m.\n2) Divide by the 2024 seconds.", ""),
        ("Only one step.", "1 steps, expected 2 … 6"),
        ("", "0 steps, expected 2 … 6"),
        ("\n".join(f"{i}. Do it." for i in range(7)), "7 steps, expected 2 … 6"),
        ("Add 3 + 4.\nDouble it.", "an operation is in it: '3 + 4'"),
        ("Multiply 3×4.\nDouble it.", "an operation is in it: '3×4'"),
        ("Multiply 3*4.\nDouble it.", "an operation is in it: '3*4'"),
        ("Divide 8/2.\nDouble it.", "an operation is in it: '8/2'"),
        ("Find the sum, = 7.\nDouble it.", "a result is in it: '= 7'"),
        ("Find x =-7.\nDouble it.", "a result is in it: '=-7'"),
        ("Double it.\nThe answer is what is left.", "an answer is in it: 'The answer is'"),
        ("Double it.\nThe final answer is x.", "an answer is in it: 'The final answer is'"),
        ("Take 12345 of it.\nDouble it.", "a number of more than 4 digits: 12345"),
    ],
)
def test_what_is_a_guidance(text: str, reason: str) -> None:
    assert GuidanceCheck()(text) == (reason == "", reason)


def test_numbers_that_the_question_does_not_have_were_computed() -> None:
    assert GuidanceCheck()(GOOD, "What do 3 apples and a pear cost?").accepted
    assert GuidanceCheck()(GOOD, "What do 33 apples cost?").reason == "a number that the question does not have: 3"


def test_labels_of_steps_are_not_part_of_them() -> None:
    assert lines("1. a\n\n 2) b\nStep 3: c\n12 boxes") == ["a", "b", "c", "12 boxes"]


def test_every_plan_of_the_task_is_a_guidance_without_anything_computed() -> None:
    problems = word_problems(500, seed=0)
    pairs = [(problem.question.decode(), problem.plan.decode()) for problem in problems]
    made = guidance_examples(pairs, PLAN_CHECK)
    assert made.rejected == []
    assert made.examples == [problem.guidance() for problem in problems]
    for question, plan in pairs:
        assert sorted(re.findall(r"\d", plan)) == sorted(re.findall(r"\d", question))


def test_worked_chains_are_no_guidance() -> None:
    problems = word_problems(50, seed=0)
    made = guidance_examples(((p.question.decode(), p.work.decode()) for p in problems), GuidanceCheck())
    assert made.examples == []
    assert len(made.rejected) == 50


def test_rejected_pairs_come_with_their_reason() -> None:
    made = guidance_examples([("3 apples?", GOOD), ("How?", "Think.")])
    assert [example.answer for example in made.examples] == [GOOD.encode()]
    assert made.rejected == [("How?", "1 steps, expected 2 … 6")]


def test_steps_of_a_plan() -> None:
    assert plan_steps("7|dp3m1t>") == ["d", "p3", "m1", "t"]
    assert plan_steps("nonsense") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_steps": 0}, "min_steps, max_steps: expected 1 ≤ min_steps ≤ max_steps, got 0 and 6"),
        ({"min_steps": 7}, "min_steps, max_steps: expected"),
        ({"max_digits": 0}, "max_digits: expected at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceCheck(**settings)  # type: ignore[arg-type]
