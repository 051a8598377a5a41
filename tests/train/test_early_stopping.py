import math
from typing import Any

import pytest

from narrowgauge.train.early_stopping import EarlyStopping


def observe(stopping: EarlyStopping, *values: float) -> list[bool]:
    states = []
    for step, value in enumerate(values, start=1):
        stopping.observe(step, {"val_loss": value})
        states.append(stopping.stopped)
    return states


def test_it_stops_after_so_many_evaluations_without_a_better_one() -> None:
    stopping = EarlyStopping(patience=2)
    assert observe(stopping, 3.0, 2.0, 2.0, 1.5, 1.6, 1.5) == [False, False, False, False, False, True]
    assert (stopping.best, stopping.best_step, stopping.waited) == (1.5, 4, 2)


def test_gains_up_to_min_delta_are_none() -> None:
    assert observe(EarlyStopping(patience=2, min_delta=0.5), 3.0, 2.5, 2.0, 1.5, 1.0) == [False] * 5
    assert observe(EarlyStopping(patience=2, min_delta=0.5), 3.0, 2.5, 2.5) == [False, False, True]


def test_more_may_be_better() -> None:
    assert observe(EarlyStopping(patience=1, mode="max"), 0.1, 0.2, 0.1) == [False, False, True]


def test_what_is_not_finite_never_improves() -> None:
    stopping = EarlyStopping(patience=2)
    assert observe(stopping, math.nan, math.inf) == [False, True]
    assert stopping.best is None
    assert observe(EarlyStopping(patience=1, mode="max"), 1.0, math.inf) == [False, True]


def test_a_metric_that_is_not_reported_is_refused() -> None:
    with pytest.raises(ValueError, match=r"early_stopping: metric 'accuracy' is not reported; known: loss, val_loss"):
        EarlyStopping("accuracy").observe(1, {"val_loss": 1.0, "loss": 2.0})


def test_what_it_has_seen_goes_on_in_another() -> None:
    first, second = EarlyStopping(patience=2), EarlyStopping(patience=2)
    observe(first, 2.0, 3.0)
    second.load_state_dict(first.state_dict())
    assert second == first
    second.observe(3, {"val_loss": 2.5})
    assert second.stopped
    with pytest.raises(ValueError, match="early_stopping: the saved run had patience=2, this one 3"):
        EarlyStopping(patience=3).load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience: expected at least 1, got 0"),
        ({"min_delta": -1.0}, "min_delta: expected a finite number of at least 0, got -1.0"),
        ({"min_delta": math.nan}, "min_delta: expected a finite number of at least 0, got nan"),
        ({"mode": "less"}, "mode: expected min or max, got 'less'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**settings)
