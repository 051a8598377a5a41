import pytest

from narrowgauge.methods.rules import SCENARIOS, SUITES, make_case, make_cases
from narrowgauge.methods.rules.games import SimonSays
from narrowgauge.train.tasks import Draws


def test_cases_are_a_function_of_the_seed() -> None:
    assert make_cases(2, seed=0) == make_cases(2, seed=0)
    assert make_cases(2, seed=0) != make_cases(2, seed=1)


def test_every_cell_has_as_many_as_were_asked_for() -> None:
    cases = make_cases(3, seed=0)
    assert len(cases) == 3 * len(SUITES) * sum(len(cls.kinds) for cls in SCENARIOS.values())
    assert {(type(case.scenario).__name__, case.suite, case.kind) for case in cases} == {
        (name, suite, kind) for name, cls in SCENARIOS.items() for suite in SUITES for kind in cls.kinds
    }


def test_helpful_cases_end_with_a_message_that_obliges_and_no_other_case_has_one() -> None:
    for case in make_cases(5, seed=0):
        obliges = [case.scenario.duty(message) is not None for message in case.turns]
        wanted = case.kind == "helpful" and case.suite != "Benign"
        assert obliges == [False] * (len(case.turns) - 1) + [wanted]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="per_cell: expected at least 1, got 0"):
        make_cases(0, seed=0)
    with pytest.raises(ValueError, match="scenarios: unknown 'Chess'; there are Integrity"):
        make_cases(1, seed=0, scenarios=["Chess"])
    with pytest.raises(ValueError, match="suite: expected one of Benign, Basic, Redteam, got 'Mean'"):
        make_case(SimonSays(), "Mean", "helpful", Draws(0, ""))
    with pytest.raises(ValueError, match="kind: SimonSays has helpful rules, got 'harmless'"):
        make_case(SimonSays(), "Basic", "harmless", Draws(0, ""))
