"""Other readings of RF8 (arXiv 2506.00486), whose text, "the two leading binary digits of a weight, at most 2^4 apart",
says something else than its first released code, which is `rf8`.

    rf8_nearest    the levels of `rf8`, 2^e and 2^e ± 2^(e - d), d <= 4, and the nearest of them
    rf8_floor      the text to the letter: 2^k with k = floor(log2 |x|), and the next binary digit that is set,
                   2^(k - d), if d <= 4; what follows is cut off. Levels of an octave: 1, 17/16, 9/8, 5/4, 3/2
    rf8_floor_log  the first digit of the text, the second of the code: k as before, r = |x| - 2^k becomes the power of
                   two nearest in the logarithm, or 0 below 2^(k - 4.5): borders 1 + 2^-4.5, -3.5, -2.5, -1.5, -0.5

The layout is that of `rf8`, ours: s | E(4) | j(3), |v| = K[j] · 2^(E - bias - 4); of the two floor readings K[1..5] =
16, 17, 18, 20, 24, and j = 6, 7 decode to NaN. Below the smallest magnitude, `rf8_floor` gives 0, and `rf8_floor_log`
the smallest magnitude from its half on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from narrowgauge.formats.mirrored import MirroredFormat
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rf8 import NUMERATORS, half_power
from narrowgauge.formats.rounding import FloatArray, Rounding, choice

FLOOR_NUMERATORS = (16, 17, 18, 20, 24)
"""K[1..5] of the floor readings: sixteenths of the power of two that the exponent field names."""
_EXPONENTS = 16


class RF8Rule(StrEnum):
    """How a value is rounded; see the module."""

    NEAREST = "nearest"
    FLOOR = "floor"
    FLOOR_LOG = "floor_log"


@dataclass(frozen=True, kw_only=True)
class RF8Reading(MirroredFormat):
    """RF8 by another rule, with an exponent bias. See `rf8_reading`."""

    rule: RF8Rule
    bias: int = 15

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", choice(RF8Rule, self.rule, "rule"))
        if not -112 <= self.bias <= 125:
            raise ValueError(f"bias: RF8 takes -112 to 125 (its values are then float32 numbers), got {self.bias}")
        super().__post_init__()

    @property
    def bits(self) -> int:
        return 8

    @property
    def family(self) -> str:
        return "residual float"

    @property
    def layout(self) -> str:
        sums = f"{len(self._numerators)} sums of two powers of two"
        return f"1 sign, 4 exponent bits with bias {self.bias}, 3 bits for one of {sums}"

    @property
    def default_rounding(self) -> Rounding | None:
        return Rounding.NEAREST_EVEN if self.rule is RF8Rule.NEAREST else None

    @property
    def nan_code(self) -> int | None:
        return 0x80

    @property
    def _numerators(self) -> tuple[int, ...]:
        return NUMERATORS if self.rule is RF8Rule.NEAREST else FLOOR_NUMERATORS

    def _parameter_name(self) -> str:
        return f"rf8_{self.rule}" + ("" if self.bias == 15 else f"_b{self.bias}")

    def _octave(self, sixteenths: FloatArray) -> FloatArray:
        """`sixteenths` of every power of two that the exponent field names: ascending, flat."""
        powers = np.arange(_EXPONENTS) - self.bias - 4
        return np.ldexp(np.asarray(sixteenths, np.float64)[None, :], powers[:, None]).reshape(-1)

    def _table(self) -> FloatArray:
        positive = np.full((_EXPONENTS, 8), np.nan)
        count = len(self._numerators)
        positive[:, 1 : count + 1] = self._octave(np.asarray(self._numerators, np.float64)).reshape(_EXPONENTS, count)
        flat = positive.reshape(-1)
        return np.concatenate([[0.0], flat[1:], np.where(np.isnan(flat), np.nan, -flat)])

    @cached_property
    def thresholds(self) -> FloatArray:
        magnitudes = np.concatenate([[0.0], self._octave(np.asarray(self._numerators, np.float64))])
        if self.rule is RF8Rule.FLOOR:
            return magnitudes[1:]
        if self.rule is RF8Rule.NEAREST:
            middles = (magnitudes[1:] + magnitudes[:-1]) / 2
            return np.where(np.arange(len(middles)) % 2 == 1, middles, np.nextafter(middles, np.inf))
        # The smallest float64 above each irrational border of [1, 2).
        borders = [16.0 * (1.0 + (half_power(52, halves) + 1) * 2.0**-52) for halves in (9, 7, 5, 3, 1)]
        return np.concatenate([[magnitudes[1] / 2], self._octave(np.asarray(borders))[:-1]])


def rf8_reading(rule: RF8Rule | str, bias: int = 15) -> RF8Reading:
    """RF8 with the rule "nearest", "floor" or "floor_log" and an exponent bias; named `rf8_<rule>` for bias 15, else
    `rf8_<rule>_b<bias>`. ValueError for other rules and for a bias that puts values beyond the normal float32 numbers.
    """
    return RF8Reading(name="", rule=choice(RF8Rule, rule, "rule"), bias=bias)


for _rule in RF8Rule:
    register(rf8_reading(_rule))
register_family(
    r"rf8_(nearest|floor|floor_log)_b(-?\d+)",
    lambda match: rf8_reading(match[1], int(match[2])),
    "rf8_floor_b12",
    "RF8 by another reading of its paper, with another exponent bias",
)
