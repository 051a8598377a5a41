"""AdaptivFloat⟨n, e⟩ (Tambe et al., arXiv 1909.13271): a minifloat whose exponent bias follows the tensor.

Fields S | E(e) | M(m) with m = n - 1 - e. The published bias b is chosen so that the largest exponent field stands for
the exponent of the largest magnitude:

    b = floor(log2 amax) - (2^e - 1)        v = ± (1 + M / 2^m) · 2^(E + b)

There are no subnormals, infinities or NaN; the code that would be ±2^b is ±0 instead. So the smallest magnitude is
2^b (1 + 2^-m) and the largest 2^(floor(log2 amax)) (2 - 2^-m). Below half of the smallest a value becomes zero, above
the largest it is clamped, between it is rounded to nearest, ties to even (the tie at half of the smallest: to zero).

As an element format (`adaptivfloat8e3`) it is normalised to b = -(2^e - 1), largest value 2 - 2^-m: the scale rule
`floor`, its default, then gives 2^floor(log2 amax), and codes and values are the published ones.
`quantize_adaptivfloat` does the same for a whole tensor in one go, with the bias instead of a scale.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Codes
from narrowgauge.formats.quantizer import supported_array
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rounding import FloatArray, Rounding
from narrowgauge.formats.scaling import ScaleRule


@dataclass(frozen=True, kw_only=True)
class AdaptivFloat(FloatFormat):
    """AdaptivFloat as a minifloat: all codes finite, no subnormals, the bottom code zero. `bias` is that of
    `FloatFormat`, the negative of the published one."""

    subnormals: bool = False
    zero_at_bottom: bool = True

    @property
    def default_rule(self) -> ScaleRule:
        """`floor`: the scale is the exponent that the published bias follows."""
        return ScaleRule.FLOOR


def adaptivfloat(bits: int, exponent_bits: int, published_bias: int | None = None) -> AdaptivFloat:
    """AdaptivFloat⟨bits, exponent_bits⟩, normalised to a largest value 2 - 2^-m, or with a bias of the tensor's.

    Named `adaptivfloat<bits>e<exponent_bits>`, with `b<published bias>` behind it if there is one. ValueError unless
    3 <= bits <= 16 and 1 <= exponent_bits <= min(bits - 1, 8).
    """
    if not 3 <= bits <= 16 or not 1 <= exponent_bits <= min(bits - 1, 8):
        raise ValueError(
            f"adaptivfloat: got {bits} bits with {exponent_bits} exponent bits, accepted: 3 to 16 bits, 1 to 8 of them "
            "exponent and one sign"
        )
    name = f"adaptivfloat{bits}e{exponent_bits}"
    bias = 2**exponent_bits - 1
    if published_bias is not None:
        name, bias = f"{name}b{published_bias}", -published_bias
    return AdaptivFloat(name=name, exponent_bits=exponent_bits, mantissa_bits=bits - 1 - exponent_bits, bias=bias)


@dataclass(frozen=True)
class AdaptivFloatQuantized:
    """codes: unsigned, the shape of x. bias: the published one, shared by the tensor. format: AdaptivFloat with that
    bias, which decodes without a scale."""

    codes: Codes
    bias: int
    format: AdaptivFloat

    def dequantize(self) -> FloatArray:
        """The values, float64."""
        return self.format.decode(self.codes)


def quantize_adaptivfloat(
    x: ArrayLike,
    bits: int,
    exponent_bits: int,
    rounding: Rounding | str | None = None,
    random_bits: ArrayLike | None = None,
) -> AdaptivFloatQuantized:
    """Quantises a float16/32/64 array of any shape with the bias of its largest magnitude (that of amax = 1 for a
    tensor of zeros). rounding and random_bits: as in `Format.encode`.

    Raises TypeError for other dtypes, ValueError for NaN, infinities and impossible widths.
    """
    array = supported_array(x).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(
            "x: got NaN or infinities, accepted: finite values (the bias follows the largest magnitude); "
            "quantize in groups with a scheme to keep them in theirs"
        )
    amax = float(np.abs(array).max(initial=0.0))
    exponent = math.frexp(amax)[1] - 1 if amax else 0
    bias = exponent - (2**exponent_bits - 1)
    fmt = adaptivfloat(bits, exponent_bits, bias)
    return AdaptivFloatQuantized(fmt.encode(array, rounding, random_bits=random_bits), bias, fmt)


def _from_name(match: re.Match[str]) -> AdaptivFloat:
    return adaptivfloat(int(match[1]), int(match[2]), None if match[3] is None else int(match[3]))


register(adaptivfloat(8, 4))
register(adaptivfloat(8, 3))
register(adaptivfloat(6, 3))
register(adaptivfloat(4, 2))
register_family(
    r"adaptivfloat(\d+)e(\d+)(?:b(-?\d+))?",
    _from_name,
    "adaptivfloat5e2",
    "AdaptivFloat: bits, exponent bits, and the published bias (without one: normalised, for the rule `floor`)",
)
