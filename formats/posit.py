"""Posits (Gustafson and Yonemoto 2017; Posit Standard 2022).

    sign | regime: a run of equal bits and the bit that ends it | exponent, `es` bits | fraction
    value = (1 + fraction) · 2^(k · 2^es + exponent),   k = run - 1 for ones, -run for zeros

Bits that no longer fit are 0. Code 0 is zero, 10…0 is NaR ("not a real", the NaN code), and the code of -x is the two's
complement of that of x, so codes sort as signed integers. The largest value is 2^((width - 2) · 2^es), the smallest its
reciprocal. The 2022 standard has es = 2 for every width; training papers also use (8, 1) and (16, 1), SoftPosit (8, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.mirrored import BitStringFormat
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rounding import FloatArray

LARGEST_EXPONENT = 1022
"""Values and their reciprocals up to 2^1022 are normal float64 numbers."""


@dataclass(frozen=True, kw_only=True)
class PositFormat(BitStringFormat):
    """The posit of `width` bits with `es` exponent bits. See `posit`."""

    es: int

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 16:
            raise ValueError(f"width: posits take 2 to 16 bits, got {self.width}")
        most = (LARGEST_EXPONENT // max(self.width - 2, 1)).bit_length() - 1
        if not 0 <= self.es <= most:
            raise ValueError(
                f"es: a posit of {self.width} bits takes 0 to {most} exponent bits (its values are then float64 "
                f"numbers), got {self.es}"
            )
        super().__post_init__()

    @property
    def family(self) -> str:
        return "posit"

    @property
    def layout(self) -> str:
        return f"{self.width} bits: sign, regime, {self.es} exponent bits, fraction; negatives in two's complement"

    @property
    def amax_target(self) -> float:
        """2^(2^es), up to which the regime is shortest and the fraction longest."""
        return min(float(2.0 ** (1 << self.es)), self.max)

    def _parameter_name(self) -> str:
        return f"posit{self.width}es{self.es}"

    def _positive(self, codes: NDArray[np.int64], width: int) -> FloatArray:
        body = width - 1
        ones = codes >> (body - 1) == 1
        # The run ends at the highest bit that differs from the first one.
        run = body - np.frexp(np.where(ones, (1 << body) - 1 - codes, codes).astype(np.float64))[1]
        left = np.maximum(body - 1 - run, 0)
        # `es` zeros behind what is left serve an exponent that does not fit.
        rest = (codes & ((1 << left) - 1)) << self.es
        exponent, fraction = rest >> left, rest & ((1 << left) - 1)
        scale = np.where(ones, run - 1, -run) * (1 << self.es) + exponent
        return np.asarray(np.ldexp(1.0 + fraction / 2.0**left, scale))


def posit(width: int, es: int) -> PositFormat:
    """The posit of `width` bits (2 to 16) with `es` exponent bits, named `posit<width>es<es>`. ValueError for widths
    beyond 16 and for values beyond float64."""
    return PositFormat(width=width, es=es)


for _width, _es in ((8, 0), (8, 1), (8, 2), (16, 1), (16, 2)):
    register(posit(_width, _es))
register_family(
    r"posit(\d+)es(\d+)",
    lambda match: posit(int(match[1]), int(match[2])),
    "posit6es1",
    "posit of so many bits, 2 to 16, with so many exponent bits",
)
