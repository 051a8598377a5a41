"""RF8, "residual float, 8 bit" (arXiv 2506.00486): a value is the sum or difference of two powers of two.

    e(x) = round(log2 |x|);  a = ±2^e(w);  r = w - a;  b = ±2^e(r);  q = a + b if e(w) - e(r) <= 4 else a

The paper's bit layout is not published and its text (two leading binary digits) differs from its first
released code (nearest power of two, signed residual). This follows the code ("variant A"): seven magnitudes
per octave, with boundaries geometric in the residual, so it is *not* nearest rounding. The other readings are in
`rf8_readings`.

The storage layout is ours: s | E(4) | j(3), |v| = K[j] · 2^(E - bias - 4), K[1..7] = 12, 14, 15, 16, 17, 18,
20; code 0 is zero, 0x80 NaN, (E >= 1, j = 0) reserved (decodes to NaN). Integer order of the low seven bits
is the order of magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.format import Codes
from narrowgauge.formats.registry import register_family
from narrowgauge.formats.rounding import CastMode, FloatArray, Rounding

NUMERATORS = (12, 14, 15, 16, 17, 18, 20)
"""K[1..7]: sixteenths of the power of two that the exponent field names."""


def mantissa_thresholds(mantissa_bits: int) -> tuple[int, ...]:
    """The seven boundaries inside an octave as mantissa fields: the smallest field that lies above each of
    1 + 2^-4.5, 1 + 2^-3.5, 1 + 2^-2.5, 1 + 2^-1.5, 2 - 2^-1.5, 2 - 2^-2.5, 2 - 2^-3.5, all irrational."""
    one = 1 << mantissa_bits
    lower = [half_power(mantissa_bits, halves) + 1 for halves in (9, 7, 5, 3)]
    upper = [one - half_power(mantissa_bits, halves) for halves in (3, 5, 7)]
    return tuple(lower + upper)


def half_power(bits: int, halves: int) -> int:
    """floor(2^(bits - halves / 2)) for an odd number of halves, at most 2 · bits."""
    return isqrt(1 << (2 * bits - halves))


def _table(bias: int) -> tuple[float, ...]:
    table = [float("nan")] * 256
    for exponent in range(16):
        for j, numerator in enumerate(NUMERATORS, start=1):
            value = numerator * 2.0 ** (exponent - bias - 4)
            table[exponent * 8 + j] = value
            table[128 + exponent * 8 + j] = -value
    table[0] = 0.0
    return tuple(table)


@dataclass(frozen=True, kw_only=True)
class RF8Format(CodebookFormat):
    """RF8 with an exponent bias. `rounding=None` is the published rule; any `Rounding` works on the same
    levels (`nearest_even` is the survey's variant A'). Magnitudes of at least 0.375 · 2^-bias round to the
    smallest value."""

    bias: int = 15

    @property
    def family(self) -> str:
        return "residual float"

    @property
    def layout(self) -> str:
        return f"1 sign, 4 exponent bits with bias {self.bias}, 3 bits for one of 7 sums of two powers of two"

    @property
    def default_rounding(self) -> Rounding | None:
        return None

    @property
    def nan_code(self) -> int | None:
        return 0x80

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        if how.stochastic:
            # By magnitude, so that a value and its negative round alike under the same bits.
            code = super()._encode(np.abs(x), how).astype(np.int64)
        elif how.rounding is not None:
            return super()._encode(x, how)
        else:
            code = self._published_rule(np.minimum(np.abs(x), self.max))
        return np.where((x < 0) & (code != 0), code | 0x80, code).astype(self.code_dtype)

    def _published_rule(self, magnitude: FloatArray) -> NDArray[np.int64]:
        fraction, exponent = np.frexp(magnitude)
        field = np.ldexp(2.0 * fraction - 1.0, 52).astype(np.int64)
        level = sum((field >= bound).astype(np.int64) for bound in mantissa_thresholds(52))
        # Levels 0..3 are j = 4..7 of this exponent, levels 4..7 are j = 1..4 of the next one.
        code = (exponent.astype(np.int64) - 1 + self.bias) * 8 + 4 + level + (level >= 4)
        code = np.where(code < 1, magnitude >= 0.375 * 2.0**-self.bias, code)
        return np.where(magnitude == 0, 0, code)


def rf8(bias: int = 15) -> RF8Format:
    """RF8 with exponent `bias`: largest value 1.25 · 2^(15 - bias). Named `rf8` for bias 15, else
    `rf8b<bias>`. ValueError for a bias that puts values beyond the normal float32 numbers."""
    if not -112 <= bias <= 125:
        raise ValueError(f"bias: rf8 takes -112 to 125 (its values are then float32 numbers), got {bias}")
    name = "rf8" if bias == 15 else f"rf8b{bias}"
    return RF8Format(name=name, table=_table(bias), bias=bias)


def bias_for(amax: float) -> int:
    """The bias with which RF8's largest value, 1.25 · 2^(15 - bias), is the smallest that holds what RF8 rounds `amax`
    to. ValueError for zero, negative numbers, NaN and infinities.
    """
    if not 0.0 < amax < float("inf"):
        raise ValueError(f"amax: got {amax}, accepted: finite numbers > 0")
    fraction, exponent = np.frexp(np.float64(amax))
    # Magnitudes of an octave from 1 + 2^-1.5 on are rounded above 1.25.
    above = np.ldexp(2.0 * fraction - 1.0, 52) >= mantissa_thresholds(52)[3]
    return int(np.clip(16 - int(exponent) - int(above), -112, 125))


register_family(r"rf8b(-?\d+)", lambda match: rf8(int(match[1])), "rf8b12", "RF8 with another exponent bias")
