"""HiFloat8 (Luo et al., "Ascend HiFloat8 Format for Deep Learning", arXiv 2409.16626): tapered precision by a prefix.

    sign | dot, a prefix of 2 to 4 bits | exponent, D bits: a sign, a magnitude without its leading 1 | mantissa

    dot    D   exponents     mantissa      value
    11     4   ±8 … ±15      1 bit         ±(1 + M / 2)  · 2^E
    10     3   ±4 … ±7       2 bits        ±(1 + M / 4)  · 2^E
    01     2   ±2, ±3        3 bits        ±(1 + M / 8)  · 2^E
    001    1   ±1            3 bits
    0001   0   0             3 bits
    0000       denormal      3 bits        ±2^(M - 23) for M = 1 … 7; M = 0 is zero, with the sign bit NaN

The two codes that would be ±1.5 · 2^15 are infinities. There is one zero and one NaN. Codes do not sort like values,
because exponents have a sign bit of their own.

The own rule is "TA", to nearest with ties away from zero (section 3.1), the same as `nearest_away`. What rounds to
1.5 · 2^15 or more is infinite under `nonsaturating`: with TA, from 40960 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.format import Codes
from narrowgauge.formats.mirrored import MirroredFormat
from narrowgauge.formats.registry import register
from narrowgauge.formats.rounding import (
    CastMode,
    FloatArray,
    NanPolicy,
    Overflow,
    Rounding,
    fraction_between,
)

INFINITY = 0x6F
BEYOND = 1.5 * 2.0**15
"""What the code of infinity would be worth: the neighbour of the largest value where overflow is decided."""
MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
"""Source type → stored mantissa bits."""
FIRST_HYBRID_EXPONENT = 4


def _magnitude(code: int) -> float:
    """The value of a code without its sign bit."""
    if code < 0x08:
        return 2.0 ** (code - 23) if code else 0.0
    mantissa_bits = 3 if code < 0x40 else 2 if code < 0x60 else 1
    dot = max(code.bit_length() - 4, 0) if code < 0x40 else 3 + (code >> 5 & 1)
    fraction = (code & (2**mantissa_bits - 1)) / 2**mantissa_bits
    if dot == 0:
        return 1.0 + fraction
    hidden = 1 << (dot - 1)
    field = code >> mantissa_bits & (2 * hidden - 1)
    exponent = hidden | field & (hidden - 1)
    return (1.0 + fraction) * 2.0 ** (-exponent if field & hidden else exponent)


@dataclass(frozen=True, kw_only=True)
class HiF8Format(MirroredFormat):
    """HiFloat8. `encode` rounds to nearest, ties away; `encode_hybrid` is the paper's second method."""

    @property
    def family(self) -> str:
        return "tapered float"

    @property
    def layout(self) -> str:
        return "1 sign, a prefix of 2 to 4 bits that tells the exponent's width, exponent, 3 to 0 mantissa bits"

    @property
    def amax_target(self) -> float:
        """16, up to which the mantissa has three bits."""
        return 16.0

    @property
    def bits(self) -> int:
        return 8

    @property
    def smallest_normal(self) -> float:
        return 2.0**-15

    def _parameter_name(self) -> str:
        return "hif8"

    def _table(self) -> FloatArray:
        positive = np.array([_magnitude(code) for code in range(128)])
        positive[INFINITY] = np.inf
        return np.concatenate([positive, [np.nan], -positive[1:]])

    @cached_property
    def thresholds(self) -> FloatArray:
        magnitudes = self._ladder[0]
        return np.asarray((magnitudes[:-1] + magnitudes[1:]) / 2)

    def _overflow(self, codes: Codes, x: FloatArray, how: CastMode) -> Codes:
        if how.overflow is Overflow.SATURATE:
            return codes
        negative, infinite = x < 0, np.isinf(x)
        if how.overflow is Overflow.NONSATURATING:
            top = np.full(x.shape, self.max)
            frac = fraction_between(np.clip(np.abs(x), top, np.nextafter(BEYOND, 0.0)), top, np.full(x.shape, BEYOND))
            odd = np.full(x.shape, (len(self.ranked[0]) - 1) % 2 == 1)
            away = how.rounds_away(frac, odd, negative, Rounding.NEAREST_AWAY) | (np.abs(x) >= BEYOND)
            infinite = infinite | (away & ~how.stays_finite(negative))
        return np.where(infinite, np.where(negative, INFINITY | 0x80, INFINITY), codes).astype(self.code_dtype)

    def encode_hybrid(
        self,
        x: ArrayLike,
        source: str = "float32",
        overflow: Overflow | str = Overflow.SATURATE,
        nan: NanPolicy | str = NanPolicy.KEEP,
    ) -> Codes:
        """Codes of `x` by hybrid rounding, the paper's second method, meant for the backward pass (section 3.2).

        Where the exponent E of x is small, |E| < 4, it is TA. Elsewhere bits of x take the place of random ones: 1 is
        added to the kept mantissa bits if F >= T, with the upper discarded bits as fraction F and as threshold T

            float32             F: the upper 14 discarded bits      T: the last 14 bits of the mantissa
            float16, bfloat16   F: the upper 2 discarded bits       T: the last bit of the mantissa, then a 1

        2^-23 <= |x| < 2^-22 is discarded whole, and F then begins with the implicit 1; less becomes zero. Read to the
        letter, as here, F >= T moves a float32 value of HiF8 with |E| >= 4 away from zero, since F = T = 0: give what
        came from a 16-bit type as that type.

        x: any shape, numbers that `source` holds. The bound on |E| and both ends, below 2^-22 and above 2^15, are those
        of the vendor's published conversion code. ValueError for an unknown source and for numbers it does not hold.
        """
        with np.errstate(invalid="ignore"):  # a signalling NaN
            values = np.asarray(x, dtype=np.float64)
        last = _last_bits(values, source)
        magnitude = np.abs(values)
        exponent = np.where(np.isfinite(magnitude), np.frexp(magnitude)[1] - 1, 0)
        hybrid = (np.abs(exponent) >= FIRST_HYBRID_EXPONENT) & (magnitude >= 2.0**-23) & (magnitude < 40960)
        e = np.where(hybrid, exponent, 0).astype(np.int64)
        kept = np.select([e < -15, np.abs(e) > 7], [0, 1], 2)
        # Below 2^-22 the unit is 2^-22 itself, and everything is discarded.
        units = np.ldexp(np.where(hybrid, magnitude, 1.0), kept - np.maximum(e, -22))
        low = np.floor(units)
        width = 14 if source == "float32" else 2
        fraction = np.floor(np.ldexp(units - low, width))
        threshold = last & 0x3FFF if source == "float32" else 2 * (last & 1) + 1
        rounded = np.ldexp(low + (fraction >= threshold), np.maximum(e, -22) - kept)
        return self.encode(np.where(hybrid, np.copysign(rounded, values), values), overflow=overflow, nan=nan)


def _last_bits(values: FloatArray, source: str) -> NDArray[np.int64]:
    """The pattern of each value in `source` (its last bits are those of the mantissa)."""
    if source not in MANTISSA_BITS:
        raise ValueError(f"source: got {source!r}, accepted: {', '.join(MANTISSA_BITS)}")
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float16 if source == "float16" else np.float32)
        pattern = narrow.view(np.uint16 if source == "float16" else np.uint32).astype(np.int64)
    off = ~np.isnan(values) & (narrow.astype(np.float64) != values)
    if source == "bfloat16":
        off |= ~np.isnan(values) & (pattern & 0xFFFF != 0)
        pattern >>= 16
    if off.any():
        raise ValueError(f"x: {float(values[off][0])!r} is no {source} number; name the type that x came from")
    return pattern


def hif8() -> HiF8Format:
    """HiFloat8, named `hif8`."""
    return HiF8Format()


register(hif8(), "hifloat8")
