"""Token budgets as functions of the round of rollouts.

Exponential, with ``start`` = 256, ``decay`` = 0.7, ``interval`` = 150 the budgets of 600 rounds are 256, 179, 125, 87::

    B(t) = max(1, floor(start · decay ** floor(t / interval)))

Linear: ``cuts`` equal cuts, one each ``interval`` rounds, after which the budget stays at ``end``::

    B(t) = floor(start + (end - start) · min(1, floor(t / interval) / cuts))
"""

import math
from dataclasses import dataclass

ROUNDING = 1e-9
"""Relative: 33 · ((21 / 33) ** (1 / 3)) ** 3 is 21, also where floating point makes it a little less."""


def decay_to(start: int, end: int, cuts: int) -> float:
    """The ``decay`` that leads from ``start`` to ``end`` in so many cuts: ``(end / start) ** (1 / cuts)``."""
    if not 1 <= end <= start or cuts < 1:
        raise ValueError(f"end, cuts: expected 1 … {start} and at least 1, got {end} and {cuts}")
    return math.exp(math.log(end / start) / cuts)


@dataclass(frozen=True, slots=True)
class ExponentialBudget:
    """See the module. ``decay`` 1 is a fixed budget; 0.5 or less may leave the slope of the length reward."""

    start: int = 256
    decay: float = 0.7
    interval: int = 150

    def __post_init__(self) -> None:
        _at_least_1(start=self.start, interval=self.interval)
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay: expected a number in (0, 1], got {self.decay!r}")

    @classmethod
    def to(cls, end: int, *, start: int, cuts: int, interval: int) -> "ExponentialBudget":
        """The budget that is ``end`` from round ``cuts · interval`` on (a run of ``(cuts + 1) · interval`` rounds)."""
        return cls(start, decay_to(start, end, cuts), interval)

    def __call__(self, index: int) -> int:
        """Tokens of round ``index``, from 0."""
        return max(1, _floor(self.start * self.decay ** (_round(index) // self.interval)))


@dataclass(frozen=True, slots=True)
class LinearBudget:
    """See the module."""

    start: int = 256
    end: int = 87
    cuts: int = 3
    interval: int = 150

    def __post_init__(self) -> None:
        _at_least_1(end=self.end, cuts=self.cuts, interval=self.interval)
        if self.start < self.end:
            raise ValueError(f"start: expected at least end={self.end}, got {self.start}")

    def __call__(self, index: int) -> int:
        """Tokens of round ``index``, from 0."""
        done = min(1.0, _round(index) // self.interval / self.cuts)
        return _floor(self.start + (self.end - self.start) * done)


def _floor(value: float) -> int:
    return math.floor(value * (1 + ROUNDING))


def _round(index: int) -> int:
    if index < 0:
        raise ValueError(f"index: expected a round from 0, got {index}")
    return index


def _at_least_1(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number!r}")
