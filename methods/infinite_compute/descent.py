"""Coordinate descent on a grid of powers of two, up to a certificate that the point is locally optimal.

Paper, §3: learning rate, epochs and weight decay are tuned together, since each moves the best value of the others
(AdamW shrinks a weight by ``lr · weight_decay`` a step). From a start, one coordinate after the other is halved or
doubled while that lowers the loss; the search ends where each of the ``2 d`` neighbours of the point was measured and
none is better.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Values = Mapping[str, float]
Point = tuple[int, ...]
"""Powers of two on top of the start, one a coordinate."""


@dataclass(frozen=True, slots=True)
class Descent:
    """``best``: the values of the point that was found, with ``loss``. ``measured``: every point that was measured, in
    order, as (values, loss). ``is_certified``: all of its ``2 d`` neighbours were measured and none is better; not so
    where a neighbour is outside the bounds."""

    best: dict[str, float]
    loss: float
    measured: tuple[tuple[dict[str, float], float], ...]
    is_certified: bool


def coordinate_descent(
    measure: Callable[[dict[str, float]], float],
    start: Values,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Descent:
    """The locally best values near ``start``; ``measure`` is called once for each point.

    ``start`` maps names to numbers above 0, the grid is ``start · 2^k``; ``bounds`` names the lowest and highest value
    of some of them. A loss that is NaN counts as infinite. Raises ``ValueError`` for an empty start, for numbers that
    are not above 0, and for a start outside its bounds or without a finite loss.
    """
    bounds = dict(bounds or {})
    _check(start, bounds)
    names = tuple(start)
    losses: dict[Point, float] = {}

    def values(point: Point) -> dict[str, float]:
        return {name: start[name] * 2.0**power for name, power in zip(names, point, strict=True)}

    def is_inside(point: Point) -> bool:
        at = values(point)
        return all(low <= at[name] <= high for name, (low, high) in bounds.items())

    def loss(point: Point) -> float:
        if point not in losses:
            found = float(measure(values(point)))
            losses[point] = math.inf if math.isnan(found) else found
        return losses[point]

    def moved(point: Point, axis: int, by: int) -> Point:
        return tuple(power + by * (index == axis) for index, power in enumerate(point))

    here: Point = (0,) * len(names)
    if math.isinf(loss(here)):
        raise ValueError(f"start: expected values with a finite loss, got {dict(start)!r}")
    without_move = 0
    while without_move < len(names):
        for axis in range(len(names)):
            before = here
            for by in (1, -1):
                while is_inside(there := moved(here, axis, by)) and loss(there) < loss(here):
                    here = there
            without_move = without_move + 1 if here == before else 0
            if without_move == len(names):
                break
    neighbours = [moved(here, axis, by) for axis in range(len(names)) for by in (1, -1)]
    return Descent(
        best=values(here),
        loss=loss(here),
        measured=tuple((values(point), found) for point, found in losses.items()),
        is_certified=all(point in losses for point in neighbours),
    )


def _check(start: Values, bounds: Mapping[str, tuple[float, float]]) -> None:
    if not start:
        raise ValueError("start: expected at least one value to tune, got none")
    for name, value in start.items():
        if not 0 < value < math.inf:
            raise ValueError(f"start: expected finite numbers above 0, got {name}={value!r}")
    for name, (low, high) in bounds.items():
        if name not in start:
            raise ValueError(f"bounds: {name!r} is not tuned; expected names among {', '.join(start)}")
        if not low <= start[name] <= high:
            raise ValueError(f"bounds: {name} starts at {start[name]}, outside {low} … {high}")
