"""Pieces of pure functions that torch.compile fuses on a CPU.

Numbers that are not negative are compared as integers there, which have the same order: float32's comparisons look for
NaN, at several times the cost. Logarithms and powers of two are polynomials: torch's own would take as long as
everything around them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.kernels.layout import Layout

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

ROOT_HALF_BITS = 0x3F3504F3
"""sqrt(1/2) as float32."""
EXPONENT_BITS = -0x800000
"""Sign and exponent of float32."""
SIGN_BIT = -0x80000000
SMALLEST_BITS = 0x800000
"""2^-126 as float32."""
LARGE_BITS = 0x7F000000
"""2^127 as float32."""
INFINITY_BITS = 0x7F800000
MAGNITUDE_BITS = 0x7FFFFFFF
LEAST_EXPONENT = -125.0


def _coefficients(function: Function, low: float, high: float, degree: int) -> tuple[float, ...]:
    """The polynomial that interpolates at Chebyshev's nodes, lowest power first."""
    fitted = Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(float(c) for c in fitted.convert(kind=Polynomial).coef)


LOG2 = _coefficients(lambda t: np.log2(1 + t) / np.where(t == 0, 1.0, t), 2**-0.5 - 1, 2**0.5 - 1, 7)
"""log2(1 + t) / t, to 1e-7."""
EXP2 = _coefficients(np.exp2, -0.5, 0.5, 6)
"""2^t, to 1e-8."""


def _polynomial(t: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = t * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * t + coefficient
    return value


def log2(x: Tensor) -> Tensor:
    """log2 of positive normal float32; of others no matter what."""
    if not torch.compiler.is_compiling():
        return torch.log2(x)
    bits = x.view(torch.int32)
    exponent = (bits - ROOT_HALF_BITS) & EXPONENT_BITS
    t = (bits - exponent).view(torch.float32) - 1.0
    return exponent.float() * 2.0**-23 + _polynomial(t, LOG2) * t


def exp2(x: Tensor) -> Tensor:
    """2^x for LEAST_EXPONENT <= x < 128, or NaN."""
    if not torch.compiler.is_compiling():
        return torch.exp2(x)
    whole = torch.round(x)
    power = _polynomial(x - whole, EXP2)
    return (power.view(torch.int32) + (whole * 2.0**23).to(torch.int32)).view(torch.float32)


def keep(*numbers: Tensor) -> tuple[Tensor, ...]:
    """The same numbers of groups, of one shape, but calculated once: a compiler would do so for every element.

    A concatenation is what it writes to memory.
    """
    if not torch.compiler.is_compiling():
        return numbers
    return torch.cat(numbers).chunk(len(numbers))


def magnitude_bits(x: Tensor) -> Tensor:
    """|x| as integers in the same order; NaN is the largest."""
    return x.view(torch.int32) & MAGNITUDE_BITS


def absent(bits: Tensor) -> Tensor:
    """All bits where a magnitude is below 2^-126, else none."""
    return (bits - SMALLEST_BITS) >> 31


def extremes(x: Tensor, bits: Tensor, missing: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(largest, smallest that is not missing) magnitude of each group, float32: NaN where there is one; 2^127 or more
    where all are missing."""
    # As float32: integers' horizontal maxima take an instruction for each element.
    present = (bits | (missing & LARGE_BITS)).view(torch.float32)
    return x.abs().amax(axes, keepdim=True), present.amin(axes, keepdim=True)


def bfloat16_values(x: Tensor, u: Tensor | None) -> Tensor:
    """float32 x rounded to the values of bfloat16: to nearest even, or away from zero where the bits that are lost and
    those of the draw carry."""
    bits = x.view(torch.int32)
    added = ((bits >> 16) & 1) + 0x7FFF if u is None else (u * 65536.0).to(torch.int32)
    finite = (magnitude_bits(x) - INFINITY_BITS) >> 31
    return ((bits + (added & finite)) & (-0x10000 | ~finite)).view(torch.float32)


def float_values(codes: Tensor, layout: Layout) -> Tensor:
    """float32 values of codes (uint8) of a minifloat, but for its NaN and infinities."""
    wide = codes.to(torch.int32)
    magnitude = wide & (layout.sign_bit - 1) if layout.sign_bit else wide
    fraction = magnitude & ((1 << layout.mantissa_bits) - 1)
    shifted = (magnitude << (23 - layout.mantissa_bits)) + ((127 - layout.bias) << 23)
    subnormal = fraction.float() * 2.0 ** (1 - layout.bias - layout.mantissa_bits)
    value = torch.where(magnitude == fraction, subnormal, shifted.view(torch.float32))
    if not layout.sign_bit:
        return value
    sign = (wide & layout.sign_bit) << (32 - layout.sign_bit.bit_length())
    return (value.view(torch.int32) | sign).view(torch.float32)


def float_codes(bits: Tensor, layout: Layout) -> Tensor:
    """Codes, int32, of the values nearest to magnitudes (ties to even codes), of which none is beyond the largest."""
    mantissa = layout.mantissa_bits
    shift = 23 - mantissa
    offset = (127 - layout.bias) << mantissa
    last = ((bits >> shift) - offset) & 1
    normal = ((bits + (last + ((1 << (shift - 1)) - 1))) >> shift) - offset
    steps = torch.round(bits.view(torch.float32) * 2.0 ** (layout.bias - 1 + mantissa)).to(torch.int32)
    below = (bits - ((128 - layout.bias) << 23)) >> 31
    return normal + ((steps - normal) & below)
