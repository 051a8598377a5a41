import pytest

from narrowgauge.methods.think_short import ExponentialBudget, LinearBudget, decay_to


def test_the_published_schedule() -> None:
    schedule = ExponentialBudget()
    budgets = [schedule(step) for step in range(600)]
    assert list(dict.fromkeys(budgets)) == [256, 179, 125, 87]
    assert [budgets.index(budget) for budget in (256, 179, 125, 87)] == [0, 150, 300, 450]


def test_the_budget_is_rounded_down_and_never_below_one() -> None:
    assert ExponentialBudget(start=3, decay=0.5, interval=1)(1) == 1  # 1.5
    assert ExponentialBudget(start=3, decay=0.5, interval=1)(50) == 1


def test_a_target_is_met_exactly_after_the_cuts() -> None:
    for end in range(1, 34):
        for cuts in range(1, 8):
            assert ExponentialBudget.to(end, start=33, cuts=cuts, interval=10)(cuts * 10) == end
    schedule = ExponentialBudget.to(21, start=33, cuts=3, interval=30)
    assert [schedule(index) for index in (0, 29, 30, 60, 90, 119)] == [33, 33, 28, 24, 21, 21]
    assert decay_to(256, 32, 3) == pytest.approx(0.5)


def test_the_linear_schedule_ends_at_its_target_and_stays_there() -> None:
    schedule = LinearBudget(start=33, end=21, cuts=3, interval=10)
    assert [schedule(index) for index in (0, 9, 10, 20, 29, 30, 1000)] == [33, 33, 29, 25, 25, 21, 21]
    assert [LinearBudget(7, end, 7, 1)(7) for end in range(1, 8)] == list(range(1, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialBudget(start=0), "start: expected at least 1, got 0"),
        (lambda: ExponentialBudget(interval=0), "interval: expected at least 1, got 0"),
        (lambda: ExponentialBudget(decay=1.1), r"decay: expected a number in \(0, 1\], got 1.1"),
        (lambda: ExponentialBudget(decay=0.0), r"decay: expected a number in \(0, 1\]"),
        (lambda: LinearBudget(start=20, end=21), "start: expected at least end=21, got 20"),
        (lambda: LinearBudget(cuts=0), "cuts: expected at least 1, got 0"),
        (lambda: decay_to(20, 21, 3), "end, cuts: expected 1 … 20 and at least 1, got 21 and 3"),
        (lambda: ExponentialBudget()(-1), "index: expected a round from 0, got -1"),
        (lambda: LinearBudget()(-1), "index: expected a round from 0, got -1"),
    ],
)
def test_other_settings_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
