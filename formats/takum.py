"""Takums (Hunhold, arXiv 2404.18603; reference code: libtakum): tapered like posits, with a bounded range.

    sign S | direction D | regime R, 3 bits | characteristic C, r bits | mantissa M, p bits
    r = R if D = 1 else 7 - R;   c = 2^r - 1 + C if D = 1 else -2^(r + 1) + 1 + C;   m = M / 2^p

    linear takum        (1 - 3 S + m) · 2^((-1)^S (c + S))
    logarithmic takum   (-1)^S · sqrt(e)^((-1)^S (c + m))

Bits that no longer fit are 0. Code 0 is zero, 10…0 is NaR; the code of -x is the two's complement of that of x. From
12 bits on the characteristic reaches -255 to 254 whatever the width. Names are those of libtakum's second version:
`takum8` is linear, `takum_log8` logarithmic.

Values exceed float32 (2^239 in 8 bits), in which kernels and `amax` scales work: quantise with a fixed scale, as in
`takum8:static=1`, for which the range is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.mirrored import BitStringFormat
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rounding import FloatArray

FIELD_BITS = 24
"""Codes are widened to so many bits, enough for every field, before they are taken apart."""
_EXACTLY = Context(prec=60)
"""e^q of a rational q is transcendental, so no float64 equals it; 60 digits tell on which side of one it lies."""


def _characteristic(codes: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], FloatArray]:
    """c and m of positive codes of `width` bits."""
    code = codes << (FIELD_BITS - width)
    upwards = code >> (FIELD_BITS - 2) == 1
    regime = code >> (FIELD_BITS - 5) & 7
    r = np.where(upwards, regime, 7 - regime)
    p = FIELD_BITS - 5 - r
    c = (code >> p & ((1 << r) - 1)) + np.where(upwards, (1 << r) - 1, 1 - (2 << r))
    return c, (code & ((1 << p) - 1)) / 2.0**p


@dataclass(frozen=True, kw_only=True)
class TakumFormat(BitStringFormat):
    """The linear or (`logarithmic`) takum of `width` bits. See `takum`.

    Values of logarithmic takums are irrational: the table holds them rounded to float64, once, while the borders of
    their own rule are those of the exact values.
    """

    logarithmic: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 16:
            raise ValueError(f"width: takums take 2 to 16 bits, got {self.width}")
        super().__post_init__()

    @property
    def family(self) -> str:
        return "takum"

    @property
    def layout(self) -> str:
        kind = "logarithmic" if self.logarithmic else "linear"
        return f"{self.width} bits, {kind}: sign, direction, 3 regime bits, characteristic, mantissa"

    @cached_property
    def amax_target(self) -> float:
        """The value next to 2, up to which the characteristic needs no bits and the mantissa has most."""
        return float(self.round(2.0))

    def _parameter_name(self) -> str:
        return f"takum_log{self.width}" if self.logarithmic else f"takum{self.width}"

    def _positive(self, codes: NDArray[np.int64], width: int) -> FloatArray:
        c, m = _characteristic(codes, width)
        if not self.logarithmic:
            return np.asarray(np.ldexp(1.0 + m, c))
        return np.array([float(_root_power(twice)) for twice in (c + m).tolist()])

    def _breaks(self) -> FloatArray:
        if not self.logarithmic:
            return super()._breaks()
        c, m = _characteristic(2 * np.arange(1, (1 << (self.width - 1)) - 1) + 1, self.width + 1)
        return np.array([_above(_root_power(twice)) for twice in (c + m).tolist()])


def _root_power(twice: float) -> Decimal:
    """sqrt(e)^twice."""
    return _EXACTLY.exp(_EXACTLY.divide(Decimal(twice), Decimal(2)))


def _above(number: Decimal) -> float:
    """The smallest float64 above `number`, which is none."""
    near = float(number)
    return near if Decimal(near) > number else float(np.nextafter(near, np.inf))


def takum(width: int, *, logarithmic: bool = False) -> TakumFormat:
    """The linear takum of `width` bits (2 to 16), named `takum<width>`, or the logarithmic one, `takum_log<width>`.
    ValueError for other widths."""
    return TakumFormat(width=width, logarithmic=logarithmic)


register(takum(8))
register(takum(16))
register(takum(8, logarithmic=True))
register_family(
    r"takum(_log)?(\d+)",
    lambda match: takum(int(match[2]), logarithmic=match[1] is not None),
    "takum_log16",
    "takum of so many bits, 2 to 16; `takum_log16` is logarithmic",
)
