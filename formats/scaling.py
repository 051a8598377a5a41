"""Scale rules: from the largest magnitude of a group (`amax`) to the factor of `x ≈ value · scale`.

Everything here is float32 arithmetic, one correctly rounded operation at a time, because the kernels must
reproduce it bit for bit. Power-of-two rules take exponents from bit fields, never from a floating-point log2
(which is wrong for the predecessors of powers of two).

With M the element's `amax_target` (its largest value, but for formats of tapered precision), emax = floor(log2 M),
b its stored mantissa bits:

| rule         | scale                                                  | largest scaled value |
|--------------|--------------------------------------------------------|----------------------|
| amax, real   | amax / M                                               | M                    |
| floor        | 2^(floor(log2 amax) - emax)  (OCP MX v1.0)             | may exceed M, clips  |
| ceil         | 2^(ceil(log2 amax) - emax)                             | never exceeds M      |
| rceil, pow2  | 2^ceil(log2(amax / M)): the smallest that does not clip | never exceeds M      |
| even         | floor after rounding amax to b mantissa bits, half up  | clips only below M's own rounding |
| static=s     | s                                                      | not looked at        |
| percentile=P | as amax, of the P-th percentile of |x|                 | clips 100 - P % of the group |
| mse          | as amax, of the clipping point with the least squared error | clips what is beyond it |
| sawb         | as amax, of the clipping point that mean(x²) and mean|x| foretell | clips what is beyond it |

The last three replace amax by a smaller clipping point; see `formats/clipping.py`. A group of zeros has scale 1, or 0
where the element format has no zero, so that it reads back as zeros in any case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Format
from narrowgauge.formats.integers import IntFormat
from narrowgauge.formats.rules import ScaleRule as ScaleRule

Float32Array = NDArray[np.float32]

SMALLEST_SCALE = 2.0**-126
"""Floor of an `amax` scale, the smallest normal float32: its reciprocal is finite, no device flushes it."""
SMALLEST_OUTER_SCALE = 2.0**-100
"""Floor of the per-tensor scale of a two-level format: its product with a block scale is still normal."""


def exponent_parameters(element: Format, rule: ScaleRule) -> tuple[int, int]:
    """(carry, emax): of normal amax, the scale exponent is `((bits(amax) + carry) >> 23) - 127 - emax`."""
    mantissa, exponent = np.frexp(element.amax_target)
    emax = int(exponent) - 1
    max_field = int((2.0 * float(mantissa) - 1.0) * 2**23)
    if rule is ScaleRule.FLOOR:
        return 0, emax
    if rule is ScaleRule.CEIL:
        return 0x7FFFFF, emax
    if rule is ScaleRule.EVEN:
        return (1 << 22) >> _stored_mantissa_bits(element), emax
    return 0x7FFFFF - max_field, emax


def _stored_mantissa_bits(element: Format) -> int:
    if isinstance(element, FloatFormat):
        return element.mantissa_bits
    if isinstance(element, IntFormat):
        return element.max_code.bit_length() - 1
    raise ValueError(f"rule: 'even' rounds amax to the element's mantissa bits, which {element.name} does not have")


def scale_exponent(
    amax: ArrayLike, element: Format, rule: ScaleRule, lowest: int = -126, highest: int = 127, zero: int = 0
) -> NDArray[np.int32]:
    """Exponent of the power-of-two scale of each group, clamped to [lowest, highest]; `zero` for a group of zeros.

    amax: finite, non-negative float32.
    """
    a = np.asarray(amax, dtype=np.float32)
    carry, emax = exponent_parameters(element, rule)
    subnormal = a < np.float32(2.0**-126)
    bits = (a * np.where(subnormal, np.float32(2.0**24), np.float32(1))).astype(np.float32).view(np.int32)
    # The sum passes 2^31 only for amax above 2^127, in the exponent field alone: int64 keeps it plain.
    exponent = ((bits.astype(np.int64) + carry) >> 23) - 127 - emax - np.where(subnormal, 24, 0)
    return np.where(a == 0, zero, np.clip(exponent, lowest, highest)).astype(np.int32)


def zero_scale(element: Format) -> float:
    """The scale of a group of zeros: 0 where the format has no zero to encode them to."""
    return 1.0 if element.has_zero else 0.0


def amax_scale(amax: ArrayLike, largest: float, floor: float = SMALLEST_SCALE, zero: float = 1.0) -> Float32Array:
    """`amax / largest` in float32, from `floor` to the largest float32; `zero` for a zero group, NaN where amax is
    NaN or infinite."""
    a = np.asarray(amax, dtype=np.float32)
    finite = np.isfinite(a)
    with np.errstate(over="ignore"):
        scale = np.where(finite, a, np.float32(1)) / np.float32(largest)
    scale = np.clip(scale, np.float32(floor), np.finfo(np.float32).max)
    scale = np.where(a == 0, np.float32(zero), scale)
    return np.where(finite, scale, np.float32(np.nan)).astype(np.float32)


def scale_from_amax(amax: ArrayLike, element: Format, rule: ScaleRule, static: float | None = None) -> Float32Array:
    """The float32 scale of each group (any shape) under `rule`; NaN where amax is NaN or infinite. The rules that
    search take the clipping point in the place of amax."""
    a = np.asarray(amax, dtype=np.float32)
    if rule is ScaleRule.AMAX or rule.searches:
        return amax_scale(a, element.amax_target, zero=zero_scale(element))
    finite = np.isfinite(a)
    if rule is ScaleRule.STATIC:
        if static is None:
            raise ValueError("static: the static rule needs its scale, as in 'e4m3fn:static=0.5'")
        scale = np.full(a.shape, np.float32(static))
    else:
        scale = np.ldexp(np.float32(1), scale_exponent(np.where(finite, a, np.float32(1)), element, rule))
        scale = np.where(a == 0, np.float32(zero_scale(element)), scale)
    return np.where(finite, scale, np.float32(np.nan)).astype(np.float32)


def inverse_scale(scale: Float32Array) -> Float32Array:
    """1 / scale in float32; 0 where the scale is 0 or NaN: the codes of that group are those of 0 or NaN."""
    inverse = np.zeros_like(scale)
    np.divide(np.float32(1), scale, out=inverse, where=np.isfinite(scale) & (scale != 0))
    return inverse
