"""FFP8 (Huang et al., arXiv 2104.07329): eight bits whose split, exponent bias and sign are chosen for each tensor.

Fields [S] | E(w) | M(t) with w + t = 7, or 8 without a sign (outputs of ReLU need none). The bias b is any integer.
All codes are finite, E = 0 holds the subnormals:

    largest value = (2 - 2^-t) · 2^(2^w - 1 - b)

Moving the bias multiplies every value by a power of two, so under a scheme an FFP8 format takes power-of-two scales
(its default rule is `pow2`); `ffp8_for` instead chooses the bias of one tensor, and codes then need no scale.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.quantizer import supported_array
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rounding import FloatArray
from narrowgauge.formats.scaling import ScaleRule

SEARCHED_BIASES = 8
"""How far beyond the bias that just does not clip `criterion="mse"` looks; each step halves the range."""


@dataclass(frozen=True, kw_only=True)
class FFP8Format(FloatFormat):
    """An FFP8 format: a minifloat of eight bits without NaN and infinity."""

    @property
    def default_rule(self) -> ScaleRule:
        """`pow2`: scales move the bias, nothing else."""
        return ScaleRule.POW2


def ffp8(exponent_bits: int, bias: int | None = None, is_signed: bool = True) -> FFP8Format:
    """FFP8 with `exponent_bits` (1 to 7, 1 to 8 unsigned), the other bits mantissa; bias: by default 2^(w - 1) - 1.

    Named `ffp8_e4m3b7`, `ffp8_ue4m4b7`. ValueError for other splits and for a bias beyond the range of float64.
    """
    width = 7 if is_signed else 8
    if not 1 <= exponent_bits <= width:
        raise ValueError(
            f"exponent_bits: got {exponent_bits}, accepted: 1 to {width} ({'signed' if is_signed else 'unsigned'} FFP8)"
        )
    mantissa_bits = width - exponent_bits
    offset = 2 ** (exponent_bits - 1) - 1 if bias is None else bias
    return FFP8Format(
        name=f"ffp8_{'' if is_signed else 'u'}e{exponent_bits}m{mantissa_bits}b{offset}",
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        bias=offset,
        is_signed=is_signed,
    )


def ffp8_for(
    x: ArrayLike, exponent_bits: int = 4, is_signed: bool | None = None, criterion: str = "range"
) -> FFP8Format:
    """The FFP8 format with the bias that suits the float16/32/64 array `x`.

    is_signed: None takes a sign only if some value is negative. criterion: `range` takes the largest bias that does
    not clip, `mse` that or one of the next eight, whichever has the least squared error to nearest rounding (the
    smaller bias where they are equal). A tensor of zeros gets the default bias.

    Raises TypeError for other dtypes, ValueError for NaN, infinities, negative values without a sign and unknown
    criteria.
    """
    if criterion not in ("range", "mse"):
        raise ValueError(f"criterion: got {criterion!r}, accepted: range, mse")
    array = supported_array(x).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("x: got NaN or infinities, accepted: finite values, which the bias is chosen for")
    negative = bool((array < 0).any())
    signed = negative if is_signed is None else is_signed
    if negative and not signed:
        raise ValueError("is_signed: got False for an array with negative values, accepted: True or None")
    amax = float(np.abs(array).max(initial=0.0))
    fmt = ffp8(exponent_bits, None, signed)
    if amax == 0:
        return fmt
    bias = _unclipped_bias(amax, fmt)
    if criterion == "range":
        return ffp8(exponent_bits, bias, signed)
    candidates = [ffp8(exponent_bits, bias + step, signed) for step in range(SEARCHED_BIASES + 1)]
    return min(candidates, key=lambda candidate: _squared_error(array, candidate, amax))


def _unclipped_bias(amax: float, fmt: FFP8Format) -> int:
    """The largest bias with (2 - 2^-t) · 2^(2^w - 1 - bias) >= amax."""
    fraction, exponent = math.frexp(amax)
    fits = 2.0 * fraction <= 2.0 - 2.0**-fmt.mantissa_bits
    return 2**fmt.exponent_bits - 1 - (exponent - 1 if fits else exponent)


def _squared_error(x: FloatArray, fmt: FFP8Format, amax: float) -> float:
    # In units of the largest magnitude, whose square may leave the range of float64.
    return float((((fmt.round(x) - x) / amax) ** 2).sum())


def _from_name(match: re.Match[str]) -> FFP8Format:
    fmt = ffp8(int(match[2]), int(match[4]), is_signed=match[1] is None)
    if fmt.mantissa_bits != int(match[3]):
        raise ValueError(f"ffp8: {match[0]!r} takes {fmt.mantissa_bits} mantissa bits to have eight in all: {fmt.name}")
    return fmt


register(ffp8(4))
register(ffp8(4, 7, is_signed=False))
register_family(
    r"ffp8_(u)?e(\d+)m(\d+)b(-?\d+)",
    _from_name,
    "ffp8_e3m4b5",
    "FFP8: exponent bits, mantissa bits, bias, eight bits in all; `ue…` without a sign",
)
