"""Rounding and overflow modes, and the one decision formats share: does a magnitude round away from zero?

A magnitude is written `S = lo + frac` in units of the last place of the target format, `lo` an integer and
`0 <= frac < 1`, both exact. The rows below are table C.1 of the format survey that the tests follow; the
parity of "even" and "odd" is that of the *code* of `lo`, which is what makes one-bit-of-precision formats
well defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RANDOM_BITS = 24
"""Random bits that one stochastic rounding consumes; the probability of rounding up is exact to 2**-24."""


class Rounding(StrEnum):
    """How an inexact value is rounded; see `rounds_away` for the decision that each one is.

    `nearest_*` differ in their ties: to the even code, away from zero, towards zero, to the odd code, by a coin.
    `toward_zero`, `up`, `down` are directed. `to_odd` takes the odd neighbour of every inexact value, so that a later
    rounding to at least two bits less equals a direct one. `stochastic`, `stochastic_b` and `stochastic_c` compare the
    fraction with N random bits in three ways, of which the first is biased towards zero by 2^-(N + 1) of the last place
    on average and the others are not.
    """

    NEAREST_EVEN = "nearest_even"
    NEAREST_AWAY = "nearest_away"
    NEAREST_ZERO = "nearest_zero"
    NEAREST_ODD = "nearest_odd"
    NEAREST_RANDOM = "nearest_random"
    TOWARD_ZERO = "toward_zero"
    UP = "up"
    DOWN = "down"
    TO_ODD = "to_odd"
    STOCHASTIC = "stochastic"
    STOCHASTIC_B = "stochastic_b"
    STOCHASTIC_C = "stochastic_c"

    @property
    def stochastic(self) -> bool:
        """Whether inexact values go up with a probability that grows with their distance from below."""
        return self in _STOCHASTIC

    @property
    def needs_random_bits(self) -> bool:
        """Whether `encode` takes `random_bits` for it."""
        return self.stochastic or self is Rounding.NEAREST_RANDOM


_STOCHASTIC = {Rounding.STOCHASTIC, Rounding.STOCHASTIC_B, Rounding.STOCHASTIC_C}


class Overflow(StrEnum):
    """What becomes of a value beyond the largest finite one (after rounding with an unbounded exponent).

    `saturate`: the largest finite value of that sign, infinities included (OCP saturating, P3109 SatFinite).
    `propagate`: finite values saturate, an infinity stays one where the format has it (P3109 SatPropagate).
    `nonsaturating`: infinity where the format has one, else NaN; formats with neither saturate (ml_dtypes).
    """

    SATURATE = "saturate"
    PROPAGATE = "propagate"
    NONSATURATING = "nonsaturating"


class NanPolicy(StrEnum):
    """What becomes of a NaN: `keep` (an error where the format has none), `zero`, `max`, or `raise` in any case."""

    KEEP = "keep"
    ZERO = "zero"
    MAX = "max"
    RAISE = "raise"


class Subnormals(StrEnum):
    """What becomes of values below the smallest normal one.

    `gradual`: they are rounded to the subnormal values (IEEE 754). `flush`: results that are subnormal after rounding
    become zero of their sign (FTZ; what rounds up to the smallest normal value stays). `flush_input`: inputs below the
    smallest normal value become zero before they are rounded (DAZ).
    """

    GRADUAL = "gradual"
    FLUSH = "flush"
    FLUSH_INPUT = "flush_input"


class CastMode(NamedTuple):
    """How `encode` was asked to cast. rounding: None for the format's own rule. random_bits: of the shape of x, for the
    modes that need them."""

    rounding: Rounding | None = None
    overflow: Overflow = Overflow.SATURATE
    random_bits: NDArray[np.integer] | None = None
    num_random_bits: int = RANDOM_BITS

    @property
    def stochastic(self) -> bool:
        """Whether a stochastic rounding was asked for."""
        return self.rounding is not None and self.rounding.stochastic

    def rounds_away(
        self, frac: FloatArray, odd: BoolArray, negative: BoolArray, own: Rounding = Rounding.NEAREST_EVEN
    ) -> BoolArray:
        """`rounds_away` in this mode, or in the format's own."""
        return rounds_away(frac, odd, negative, self.rounding or own, self.random_bits, self.num_random_bits)

    def stays_finite(self, negative: BoolArray) -> BoolArray:
        """Whether a finite value beyond the largest is kept there: a directed mode does so on its inner side (IEEE 754
        §7.4)."""
        if self.rounding is Rounding.UP:
            return negative
        if self.rounding is Rounding.DOWN:
            return ~negative
        return np.full(negative.shape, self.rounding in (Rounding.TOWARD_ZERO, Rounding.TO_ODD))


E = TypeVar("E", bound=StrEnum)


def choice(kind: type[E], value: E | str, argument: str) -> E:
    """The member of `kind` that `value` names; a ValueError names the accepted ones and the nearest."""
    try:
        return kind(value)
    except ValueError:
        accepted = [member.value for member in kind]
        near = get_close_matches(str(value), accepted, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument}: got {value!r}, accepted: {', '.join(accepted)}{hint}") from None


def rounds_away(
    frac: FloatArray,
    odd: BoolArray,
    negative: BoolArray,
    rounding: Rounding,
    random_bits: NDArray[np.integer] | None = None,
    num_random_bits: int = RANDOM_BITS,
) -> BoolArray:
    """Whether each magnitude goes from `lo` to `lo + 1`.

    frac: exact fraction of the last place, in [0, 1). odd: parity of the code of `lo`. negative: sign of the
    value. random_bits: integers R in [0, 2**num_random_bits), for the stochastic modes and `nearest_random` alone.
    With N = num_random_bits, a value rounds away when

        stochastic      floor(frac · 2^N) + R >= 2^N                    (variant A of the survey)
        stochastic_b    floor(frac · 2^(N+1)) + 2 R + 1 >= 2^(N+1)
        stochastic_c    RNE(frac · 2^N) + R >= 2^N
        nearest_random  frac > 1/2, or frac = 1/2 and R >= 2^(N-1)
    """
    if rounding in _TIES:
        return np.asarray((frac > 0.5) | ((frac == 0.5) & _TIES[rounding](odd)))
    if rounding is Rounding.TOWARD_ZERO:
        return np.zeros(frac.shape, dtype=np.bool_)
    if rounding is Rounding.UP:
        return (frac > 0) & ~negative
    if rounding is Rounding.DOWN:
        return (frac > 0) & negative
    if rounding is Rounding.TO_ODD:
        return (frac > 0) & ~odd
    bits = _checked_bits(random_bits, num_random_bits)
    one = 2.0**num_random_bits
    if rounding is Rounding.NEAREST_RANDOM:
        return (frac > 0.5) | ((frac == 0.5) & (bits >= one / 2))
    if rounding is Rounding.STOCHASTIC_B:
        return np.asarray(np.floor(frac * (2 * one)) + 2 * bits + 1 >= 2 * one)
    if rounding is Rounding.STOCHASTIC_C:
        return np.asarray(np.rint(frac * one) + bits >= one)
    return np.asarray(np.floor(frac * one) + bits >= one)


_TIES: Mapping[Rounding, Callable[[BoolArray], BoolArray]] = MappingProxyType(
    {
        Rounding.NEAREST_EVEN: lambda odd: odd,
        Rounding.NEAREST_AWAY: np.ones_like,
        Rounding.NEAREST_ZERO: np.zeros_like,
        Rounding.NEAREST_ODD: np.logical_not,
    }
)
"""Mode → whether a tie goes away from zero, given the parity of the code below."""


def _checked_bits(random_bits: NDArray[np.integer] | None, num_random_bits: int) -> FloatArray:
    if random_bits is None:
        raise ValueError("random_bits: stochastic rounding needs explicit random bits, got None")
    if not 1 <= num_random_bits <= 32:
        raise ValueError(f"num_random_bits: got {num_random_bits}, accepted: 1 to 32")
    bits = np.asarray(random_bits)
    if not np.issubdtype(bits.dtype, np.integer):
        raise TypeError(f"random_bits: expected an integer array, got dtype {bits.dtype}")
    if bits.size and (int(bits.min()) < 0 or int(bits.max()) >> num_random_bits):
        raise ValueError(f"random_bits: values must lie in [0, 2**{num_random_bits})")
    return bits.astype(np.float64)


def fraction_between(x: FloatArray, below: FloatArray, above: FloatArray) -> FloatArray:
    """(x - below) / (above - below) in [0, 1), below <= x < above: rounded, but to the right side of 0, 1/2 and 1."""
    frac = quotient_between(x, below, above)
    # below + above is total + error exactly (Knuth's two-sum), so the comparison with the midpoint is exact.
    total = below + above
    shift = total - below
    error = (below - (total - shift)) + (above - shift)
    side = np.where(2.0 * x == total, -error, 2.0 * x - total)
    lower = np.clip(frac, 2.0**-1074, np.nextafter(0.5, 0.0))
    upper = np.clip(frac, np.nextafter(0.5, 1.0), np.nextafter(1.0, 0.0))
    inner = np.where(side < 0, lower, np.where(side > 0, upper, 0.5))
    return np.where(x > below, inner, 0.0)


def quotient_between(x: FloatArray, below: FloatArray, above: FloatArray) -> FloatArray:
    """(x - below) / (above - below) by three operations of IEEE arithmetic, at most 1 - 2^-53, and 0 where the two are
    one: what stochastic rounding between two table entries compares with its random bits, the same on every device."""
    step = above - below
    return np.minimum((x - below) / np.where(step > 0, step, 1.0), 1.0 - 2.0**-53)
