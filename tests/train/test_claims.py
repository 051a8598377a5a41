import math

import pytest

from narrowgauge.train import NOT_SHOWN, OPPOSITE, SHOWN, Claim, Judged, judge, verdict


def seeds(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"treated": treated, "control": control} for treated, control in pairs]


CLEAR = seeds((1.0, 2.0), (1.1, 2.0), (0.9, 2.1))


@pytest.mark.parametrize(
    ("better", "margin", "expected"),
    [
        ("lower", 0.0, SHOWN),
        ("lower", 0.5, SHOWN),
        ("lower", 1.5, NOT_SHOWN),  # better, but not by so much
        ("higher", 0.0, OPPOSITE),
        ("higher", -0.5, OPPOSITE),
        ("higher", -1.5, SHOWN),  # may be worse by 1.5, and is worse by 1
    ],
)
def test_the_verdict_asks_the_whole_interval(better, margin, expected) -> None:
    assert judge(Claim("a claim", "treated", "control", better, margin), CLEAR).verdict == expected


def test_an_effect_smaller_than_the_margin_is_not_the_opposite() -> None:
    # d is about -1 with a limit of -2: neither shown nor against the claim.
    assert judge(Claim("a claim", "treated", "control", margin=2.0), CLEAR).verdict == NOT_SHOWN


def test_scattered_seeds_show_nothing() -> None:
    result = judge(Claim("a claim", "treated", "control"), seeds((1.0, 2.0), (3.0, 2.0), (1.5, 2.0)))
    assert result.verdict == NOT_SHOWN
    assert result.effect is not None
    assert result.effect.low < 0 < result.effect.high


def test_the_control_may_be_a_number() -> None:
    result = judge(Claim("a claim", "treated", 1.5), CLEAR)
    assert (result.verdict, result.control) == (SHOWN, (1.5, 1.5, 1.5))


def test_a_number_that_is_not_finite_shows_nothing() -> None:
    result = judge(Claim("a claim", "treated", "control"), seeds((1.0, 2.0), (math.nan, 2.0)))
    assert (result.verdict, result.effect) == (NOT_SHOWN, None)


def test_a_missing_number_and_a_single_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="gave no 'absent'; it gave control, treated"):
        judge(Claim("a claim", "absent", "control"), CLEAR)
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        judge(Claim("a claim", "treated", "control"), CLEAR[:1])


def judged(*verdicts: tuple[str, bool]) -> list[Judged]:
    return [Judged(Claim("a claim", "a", "b", judged=is_judged), (), (), None, one) for one, is_judged in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([(SHOWN, True), (SHOWN, True)], SHOWN),
        ([(SHOWN, True), (NOT_SHOWN, True)], NOT_SHOWN),
        ([(SHOWN, True), (OPPOSITE, True)], OPPOSITE),
        ([(SHOWN, True), (OPPOSITE, False)], SHOWN),  # told, not judged
        ([(SHOWN, False)], NOT_SHOWN),
    ],
)
def test_an_experiment_shows_what_all_its_judged_claims_show(verdicts, expected) -> None:
    assert verdict(judged(*verdicts)) == expected


def test_wrong_settings_of_a_claim_are_refused() -> None:
    with pytest.raises(ValueError, match="better: expected 'lower' or 'higher', got 'more'"):
        Claim("a claim", "a", "b", "more")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="margin: expected a finite number, got nan"):
        Claim("a claim", "a", "b", margin=math.nan)
