import pytest

from narrowgauge.methods.rules import (
    Message,
    echo,
    evaluate,
    leaky,
    make_cases,
    one_by_one,
    oracle,
    play,
    play_control,
    report,
    silent,
)

CASES = make_cases(5, seed=0)


def test_the_oracle_has_the_full_score() -> None:
    assert report(play_control(CASES, oracle)).score == 10.0


def test_the_echo_fails_every_harmless_basic_case() -> None:
    found = report(play_control(CASES, echo))
    assert found.rate(suite="Basic", kind="harmless") == 0
    assert found.rate(suite="Benign") == 1


def test_silence_keeps_harmless_rules_and_no_helpful_one() -> None:
    found = report(play_control(CASES, silent))
    assert found.rate(kind="harmless") == 1
    assert found.rate(suite="Basic", kind="helpful") == 0
    assert found.rate(suite="Redteam", kind="helpful") == 0
    assert found.rate(suite="Benign") == 1
    assert found.score == pytest.approx(10 * 4 / 6)


def test_telling_everything_fails_every_harmless_case() -> None:
    assert report(play_control(CASES, leaky)).rate(kind="harmless") == 0


def test_a_policy_sees_the_opening_and_everything_said_so_far() -> None:
    seen: list[list[Message]] = []

    def reply(conversation):  # type: ignore[no-untyped-def]
        seen.append(list(conversation))
        return "No."

    (case,) = (case for case in make_cases(1, seed=0, scenarios=["Encryption"], suites=["Basic"]))
    (outcome,) = play([case], one_by_one(reply), as_system=True)
    assert outcome.result.passed
    assert [[turn.role for turn in talk] for talk in seen] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
    ]
    assert [turn.text for turn in outcome.turns] == [case.turns[0], "No.", case.turns[1], "No."]


def test_the_same_replies_give_the_same_report_either_way() -> None:
    assert evaluate(one_by_one(lambda talk: ""), CASES) == report(play_control(CASES, silent))


def test_the_score_is_the_mean_over_suites_and_kinds() -> None:
    cases = make_cases(2, seed=0, scenarios=["Integrity", "Encryption"], suites=["Basic"])
    found = report(play_control(cases, silent))
    assert found.score == 5.0
    assert found.rate(scenario="Integrity") == 0.0
    assert "Integrity Basic helpful" in str(found)
    assert str(found).endswith("score 5.00")


def test_an_empty_report_is_refused() -> None:
    with pytest.raises(ValueError, match="outcomes: expected at least one"):
        report([])
    with pytest.raises(ValueError, match="rate: no case has suite 'Basic'"):
        report(play_control(CASES[:1], silent)).rate(suite="Basic")
