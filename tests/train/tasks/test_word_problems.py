import re
from collections import Counter
from itertools import pairwise

import pytest

from narrowgauge.train.tasks import Operation, WordProblem, word_problems

PROBLEM = WordProblem(7, (Operation("d", None), Operation("p", 3)), (1, 0))


def test_the_format_is_what_it_says() -> None:
    assert PROBLEM.question == b"7, B plus 3, A twice?"
    assert PROBLEM.plan == b"7|dp3>"
    assert PROBLEM.work == b"7d=4;4p3=7;#7"
    assert PROBLEM.result == b"#7"


def test_four_examples_of_one_problem() -> None:
    pairs = [(e.prompt, e.answer) for e in (PROBLEM.direct(), PROBLEM.chain_of_thought(), PROBLEM.guidance())]
    assert pairs == [(PROBLEM.question, b"#7"), (PROBLEM.question, PROBLEM.work), (PROBLEM.question, PROBLEM.plan)]
    assert (PROBLEM.execution().prompt, PROBLEM.execution().answer) == (PROBLEM.plan, PROBLEM.work)


def solve(question: str) -> int:
    """An independent reading of the question."""
    start, *clauses = question.rstrip("?").split(", ")
    value = int(start)
    for clause in sorted(clauses):
        words = clause.split()
        match words[1]:
            case "plus":
                value += int(words[2])
            case "minus":
                value -= int(words[2])
            case "twice":
                value *= 2
            case "thrice":
                value *= 3
    return value % 10


def test_every_result_is_right_and_every_step_follows() -> None:
    for problem in word_problems(300, seed=0):
        assert int(problem.result[1:]) == solve(problem.question.decode())
        steps = problem.work.decode().split(";")
        assert steps[-1] == f"#{steps[-2][-1]}"
        assert all(step[0] == before[-1] for before, step in pairwise(steps[:-1]))


def test_a_plan_computes_nothing() -> None:
    for problem in word_problems(200, seed=1):
        in_plan, in_question = (Counter(re.findall(rb"\d", text)) for text in (problem.plan, problem.question))
        assert in_plan == in_question


def test_clauses_are_told_in_random_order() -> None:
    told = {problem.told for problem in word_problems(300, seed=0)}
    assert len(told) == 2 + 6


def test_questions_differ_and_depend_on_the_seed() -> None:
    problems = word_problems(500, seed=0)
    assert len({problem.question for problem in problems}) == 500
    assert word_problems(500, seed=0) == problems
    assert word_problems(500, seed=1) != problems


def test_impossible_numbers_of_operations_are_refused() -> None:
    with pytest.raises(ValueError, match="min_operations"):
        word_problems(1, seed=0, min_operations=3, max_operations=2)
