import math
from collections.abc import Callable

import pytest

from narrowgauge.methods.infinite_compute import coordinate_descent

Values = dict[str, float]


def counted(loss: Callable[[Values], float]) -> tuple[Callable[[Values], float], list[tuple[float, ...]]]:
    """The function, and the points at which it was called."""
    seen: list[tuple[float, ...]] = []

    def measure(values: Values) -> float:
        seen.append(tuple(values.values()))
        return loss(values)

    return measure, seen


def valley(values: Values) -> float:
    """A narrow valley along lr · weight_decay = 0.003, lowest at lr = 0.003: no coordinate is independent."""
    lr, decay = math.log2(values["lr"] / 3e-3), math.log2(values["weight_decay"])
    return (lr + decay) ** 2 + 0.3 * lr**2 + 0.5 * math.log2(values["epochs"] / 16) ** 2


def test_it_ends_where_every_neighbour_is_worse() -> None:
    measure, seen = counted(valley)
    found = coordinate_descent(measure, {"lr": 2.4e-2, "epochs": 4, "weight_decay": 0.125})
    assert found.is_certified
    losses = {point: valley(dict(zip(found.best, point, strict=True))) for point in seen}
    here = tuple(found.best.values())
    for axis in range(3):
        for factor in (0.5, 2.0):
            neighbour = tuple(value * factor ** (index == axis) for index, value in enumerate(here))
            assert losses[neighbour] > found.loss
    assert found.loss == losses[here] == min(losses.values())


def test_no_point_is_measured_twice_and_all_are_told() -> None:
    measure, seen = counted(valley)
    found = coordinate_descent(measure, {"lr": 2.4e-2, "epochs": 4, "weight_decay": 0.125})
    assert len(set(seen)) == len(seen)
    assert [tuple(values.values()) for values, _ in found.measured] == seen


def test_points_are_powers_of_two_from_the_start() -> None:
    measure, seen = counted(lambda values: abs(math.log(values["x"] / 11)))
    assert coordinate_descent(measure, {"x": 3.0}).best == {"x": 12.0}
    assert all(math.log2(x / 3).is_integer() for (x,) in seen)


def test_a_bound_is_kept_and_leaves_no_certificate_on_its_edge() -> None:
    measure, seen = counted(lambda values: values["x"])
    found = coordinate_descent(measure, {"x": 8.0}, bounds={"x": (2.0, 8.0)})
    assert found.best == {"x": 2.0}
    assert not found.is_certified
    assert {x for (x,) in seen} == {2.0, 4.0, 8.0}


def test_a_plain_is_where_it_starts() -> None:
    found = coordinate_descent(lambda values: 1.0, {"x": 1.0, "y": 1.0})
    assert found.best == {"x": 1.0, "y": 1.0}
    assert found.is_certified
    assert len(found.measured) == 5


def test_a_loss_that_is_no_number_is_never_best() -> None:
    found = coordinate_descent(lambda values: math.nan if values["x"] > 1 else 2 - values["x"], {"x": 0.5})
    assert found.best == {"x": 1.0}
    assert found.is_certified


def test_starts_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="start: expected at least one value"):
        coordinate_descent(lambda values: 0.0, {})
    with pytest.raises(ValueError, match=r"start: expected finite numbers above 0, got x=0.0"):
        coordinate_descent(lambda values: 0.0, {"x": 0.0})
    with pytest.raises(ValueError, match="start: expected values with a finite loss"):
        coordinate_descent(lambda values: math.nan, {"x": 1.0})
    with pytest.raises(ValueError, match="bounds: 'y' is not tuned"):
        coordinate_descent(lambda values: 0.0, {"x": 1.0}, bounds={"y": (1, 2)})
    with pytest.raises(ValueError, match=r"bounds: x starts at 1\.0, outside 2 … 4"):
        coordinate_descent(lambda values: 0.0, {"x": 1.0}, bounds={"x": (2, 4)})
