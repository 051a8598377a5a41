"""Posits (Gustafson and Yonemoto 2017; Posit Standard 2022), and what all formats with mirrored values share.

    sign | regime: a run of equal bits and the bit that ends it | exponent, `es` bits | fraction
    value = (1 + fraction) · 2^(k · 2^es + exponent),   k = run - 1 for ones, -run for zeros

Bits that no longer fit are 0. Code 0 is zero, 10…0 is NaR ("not a real", the NaN code), and the code of -x is the two's
complement of that of x, so codes sort as signed integers. The largest value is 2^((width - 2) · 2^es), the smallest its
reciprocal. The 2022 standard has es = 2 for every width; training papers also use (8, 1) and (16, 1), SoftPosit (8, 0).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.format import Codes
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rounding import (
    FloatArray,
    Overflow,
    Rounding,
    fraction_between,
    quotient_between,
    rounds_away,
)

LARGEST_EXPONENT = 1022
"""Values and their reciprocals up to 2^1022 are normal float64 numbers."""


@dataclass(frozen=True, kw_only=True)
class MirroredFormat(CodebookFormat):
    """A table computed from parameters, in which -v has a code whenever v has one, with a rounding rule of its own.

    The rule (`rounding=None`) acts on magnitudes and is given by `thresholds`. Any `Rounding` works on the values as in
    every codebook ("even" is the parity of the rank), by magnitude too: -x rounds like x under the same random bits.
    Without a zero, magnitudes below the smallest become the smallest, with their sign except for `up` and `down`.
    Beyond the ends everything saturates; formats with other rules override `_overflow`.
    """

    table: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self._parameter_name())
        object.__setattr__(self, "table", tuple(self._table().tolist()))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **{item.name: getattr(self, item.name) for item in fields(self) if item.init}), ()

    @abstractmethod
    def _parameter_name(self) -> str:
        """The name of a format made without one, which `formats.get` reads back."""

    @abstractmethod
    def _table(self) -> FloatArray:
        """The value of each code, float64 [2**bits]."""

    @property
    @abstractmethod
    def thresholds(self) -> FloatArray:
        """Ascending float64 [magnitudes - 1]: threshold i is the smallest number that the format's own rule takes to
        magnitude i + 1, zero counted if it exists."""

    @property
    def default_rounding(self) -> Rounding | None:
        return None

    @cached_property
    def _ladder(self) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.int64]]:
        """Magnitudes in ascending order, their codes, and the codes of their negatives."""
        levels, codes = self.ranked
        first = int(np.searchsorted(levels, 0.0))
        opposite = codes[: len(levels) - first][::-1]
        return levels[first:], codes[first:], opposite

    def _encode(
        self,
        x: FloatArray,
        rounding: Rounding | None,
        overflow: Overflow,
        random_bits: Codes | None,
        num_random_bits: int,
    ) -> Codes:
        magnitudes, codes, opposite = self._ladder
        magnitude, negative = np.minimum(np.abs(x), magnitudes[-1]), x < 0
        if rounding is None:
            place = np.searchsorted(self.thresholds, magnitude, side="right")
        else:
            low = np.maximum(np.searchsorted(magnitudes, magnitude, side="right") - 1, 0)
            between = quotient_between if rounding.stochastic else fraction_between
            inner = np.maximum(magnitude, magnitudes[0])
            frac = between(inner, magnitudes[low], magnitudes[np.minimum(low + 1, len(magnitudes) - 1)])
            odd = (len(self.ranked[0]) - len(magnitudes) + low) % 2 == 1
            place = low + rounds_away(frac, odd, negative, rounding, random_bits, num_random_bits)
            if rounding in (Rounding.UP, Rounding.DOWN):
                negative = np.where(magnitude < magnitudes[0], rounding is Rounding.DOWN, negative)
        result = np.where(negative, opposite[place], codes[place]).astype(self.code_dtype)
        return self._overflow(result, x, overflow, rounding, random_bits, num_random_bits)

    def _overflow(
        self,
        codes: Codes,
        x: FloatArray,
        overflow: Overflow,
        rounding: Rounding | None,
        random_bits: Codes | None,
        num_random_bits: int,
    ) -> Codes:
        """`codes`, saturated so far, with what `overflow` makes of x beyond the largest value."""
        return codes


@dataclass(frozen=True, kw_only=True)
class BitStringFormat(MirroredFormat):
    """Mirrored formats whose positive codes count upwards and that round to nearest *on the bit string*.

    Between two neighbours breaks the value whose code is theirs with one bit more: the arithmetic mean where the last
    bit is a fraction bit, the geometric mean (or farther off) where it belongs to an exponent. Ties go to the even
    code. Nothing but zero becomes zero, nothing finite becomes NaR. An infinity becomes the largest value, and NaR under
    `nonsaturating`: the standards convert it to NaR, while finite numbers saturate whatever the overflow rule.
    """

    width: int

    @property
    def bits(self) -> int:
        return self.width

    @abstractmethod
    def _positive(self, codes: NDArray[np.int64], width: int) -> FloatArray:
        """Values of positive codes of the format of this kind with so many bits."""

    def _table(self) -> FloatArray:
        positive = self._positive(np.arange(1, 1 << (self.width - 1)), self.width)
        return np.concatenate([[0.0], positive, [np.nan], -positive[::-1]])

    def _breaks(self) -> FloatArray:
        """Where each positive value parts from the next: the smallest number that goes up."""
        codes = np.arange(1, (1 << (self.width - 1)) - 1)
        breaks = self._positive(2 * codes + 1, self.width + 1)
        return np.where(codes % 2 == 1, breaks, np.nextafter(breaks, np.inf))

    @cached_property
    def thresholds(self) -> FloatArray:
        return np.concatenate([[np.nextafter(0.0, 1.0)], self._breaks()])

    def _overflow(
        self,
        codes: Codes,
        x: FloatArray,
        overflow: Overflow,
        rounding: Rounding | None,
        random_bits: Codes | None,
        num_random_bits: int,
    ) -> Codes:
        if overflow is not Overflow.NONSATURATING:
            return codes
        return np.where(np.isinf(x), 1 << (self.width - 1), codes).astype(self.code_dtype)


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
