"""How hyperparameters are chosen: quasi-random points of a search space, or none at all.

Paper, §4.4. External tuning: every submission declares a space; each study draws its own points from it, spread evenly
(a Halton sequence, here moved by a random offset per study, modulo 1), log-uniformly where that is declared; the
fastest trial of a study counts. Self-tuning: one run a study, with a longer time limit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from narrowgauge.train.rng import derive_seed

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)

Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers ``low`` … ``high``, uniform, or uniform in their logarithm. ``low == high`` fixes the value."""

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if not (self.low <= self.high and math.isfinite(self.high - self.low)):
            raise ValueError(f"low, high: expected finite numbers in this order, got {self.low!r} and {self.high!r}")
        if self.log and not self.low > 0:
            raise ValueError(f"low: expected a number above 0 for a logarithmic span, got {self.low!r}")

    def at(self, share: float) -> float:
        """The value at ``share`` of the span, 0 … 1."""
        if self.low == self.high:
            return self.low
        if self.log:
            return math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)


def radical_inverse(index: int, base: int) -> float:
    """The digits of ``index`` in ``base``, mirrored at the point: van der Corput's sequence, in [0, 1)."""
    value, weight = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value, weight = value + digit * weight, weight / base
    return value


def quasi_random(space: Mapping[str, Span], count: int, seed: int) -> list[Values]:
    """``count`` points of ``space``, spread evenly; another ``seed`` moves them all by another offset.

    Raises ``ValueError`` for fewer than one point and for more than ten dimensions.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if len(space) > len(_PRIMES):
        raise ValueError(f"space: expected at most {len(_PRIMES)} hyperparameters, got {len(space)}")
    raw = np.random.Philox(key=derive_seed(seed, "algoperf tuning")).random_raw(max(1, len(space)))
    offsets = [int(number) / 2.0**64 for number in raw]
    return [
        {
            name: span.at((radical_inverse(index + 1, base) + offset) % 1.0)
            for (name, span), base, offset in zip(space.items(), _PRIMES, offsets, strict=False)
        }
        for index in range(count)
    ]
