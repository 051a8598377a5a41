"""Rounding and overflow modes, and the one decision formats share: does a magnitude round away from zero?

A magnitude is written `S = lo + frac` in units of the last place of the target format, `lo` an integer and
`0 <= frac < 1`, both exact. The rows below are table C.1 of the format survey that the tests follow; the
parity of "even" and "odd" is that of the *code* of `lo`, which is what makes one-bit-of-precision formats
well defined.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RANDOM_BITS = 24
"""Random bits that one stochastic rounding consumes; the probability of rounding up is exact to 2**-24."""


class Rounding(StrEnum):
    """How an inexact value is rounded."""

    NEAREST_EVEN = "nearest_even"
    NEAREST_AWAY = "nearest_away"
    TOWARD_ZERO = "toward_zero"
    UP = "up"
    DOWN = "down"
    TO_ODD = "to_odd"
    STOCHASTIC = "stochastic"


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
    """What becomes of a NaN: kept (an error where the format has none), `zero`, or `max`."""

    KEEP = "keep"
    ZERO = "zero"
    MAX = "max"


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
    value. random_bits: integers in [0, 2**num_random_bits), needed by `stochastic` alone: a value rounds away
    when `floor(frac * 2**N) + R >= 2**N` (variant A of the survey).
    """
    if rounding is Rounding.NEAREST_EVEN:
        return (frac > 0.5) | ((frac == 0.5) & odd)
    if rounding is Rounding.NEAREST_AWAY:
        return np.asarray(frac >= 0.5)
    if rounding is Rounding.TOWARD_ZERO:
        return np.zeros(frac.shape, dtype=np.bool_)
    if rounding is Rounding.UP:
        return (frac > 0) & ~negative
    if rounding is Rounding.DOWN:
        return (frac > 0) & negative
    if rounding is Rounding.TO_ODD:
        return (frac > 0) & ~odd
    if random_bits is None:
        raise ValueError("random_bits: stochastic rounding needs explicit random bits, got None")
    bits = np.asarray(random_bits)
    if not np.issubdtype(bits.dtype, np.integer):
        raise TypeError(f"random_bits: expected an integer array, got dtype {bits.dtype}")
    if bits.size and (int(bits.min()) < 0 or int(bits.max()) >> num_random_bits):
        raise ValueError(f"random_bits: values must lie in [0, 2**{num_random_bits})")
    one = 2.0**num_random_bits
    return np.asarray(np.floor(frac * one) + bits.astype(np.float64) >= one)
