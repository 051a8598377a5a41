"""Tables that are computed from parameters and mirrored at zero, with a rounding rule of their own: what posit, takum,
LNS and HiFloat8 have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.format import Codes
from narrowgauge.formats.rounding import (
    CastMode,
    FloatArray,
    Overflow,
    Rounding,
    fraction_between,
    quotient_between,
)


@dataclass(frozen=True, kw_only=True)
class MirroredFormat(CodebookFormat):
    """A table computed from parameters, in which -v has a code whenever v has one, with a rounding rule of its own.

    The rule (`rounding=None`) acts on magnitudes and is given by `thresholds`. Any `Rounding` works on the values as in
    every codebook ("even" is the parity of the rank), but by magnitude: -x rounds like x under the same random bits.
    Without a zero, magnitudes below the smallest (±0, too) become the smallest, with their sign except for `up` and
    `down`. Beyond the ends everything saturates; formats with other rules override `_overflow`.
    """

    table: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self._parameter_name())
        object.__setattr__(self, "table", tuple(self._table().tolist()))

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

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        magnitudes, codes, opposite = self._ladder
        magnitude, negative = np.minimum(np.abs(x), magnitudes[-1]), np.signbit(x)
        if how.rounding is None:
            place = np.searchsorted(self.thresholds, magnitude, side="right")
        else:
            low = np.maximum(np.searchsorted(magnitudes, magnitude, side="right") - 1, 0)
            between = quotient_between if how.stochastic else fraction_between
            inner = np.maximum(magnitude, magnitudes[0])
            frac = between(inner, magnitudes[low], magnitudes[np.minimum(low + 1, len(magnitudes) - 1)])
            odd = (len(self.ranked[0]) - len(magnitudes) + low) % 2 == 1
            place = low + how.rounds_away(frac, odd, negative)
            if how.rounding in (Rounding.UP, Rounding.DOWN):
                negative = np.where(magnitude < magnitudes[0], how.rounding is Rounding.DOWN, negative)
        result = np.where(negative, opposite[place], codes[place]).astype(self.code_dtype)
        return self._overflow(result, x, how)

    def _overflow(self, codes: Codes, x: FloatArray, how: CastMode) -> Codes:
        """`codes`, saturated so far, with what `how.overflow` makes of x beyond the largest value."""
        return codes


@dataclass(frozen=True, kw_only=True)
class BitStringFormat(MirroredFormat):
    """Mirrored formats whose positive codes count upwards and that round to nearest *on the bit string*.

    The border between two neighbours is the value whose code is the lower one's with a 1 behind: their arithmetic mean
    where the last bit belongs to a fraction, their geometric mean where it belongs to an exponent. Ties go to the even
    code. Nothing but zero becomes zero, and nothing finite becomes NaR.

    Finite numbers saturate whatever the overflow rule, as the definitions have it. These convert infinities to NaR,
    and so does `nonsaturating`; `saturate` and `propagate` give the largest value, there being no code of infinity.
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

    def _overflow(self, codes: Codes, x: FloatArray, how: CastMode) -> Codes:
        if how.overflow is not Overflow.NONSATURATING:
            return codes
        return np.where(np.isinf(x), 1 << (self.width - 1), codes).astype(self.code_dtype)
