"""The companded kinds of stored moments in Triton: logarithms, softsign, range expansion. Formulas and names are those
of `kernels/moments.py`. C is a `MomentLayout` (kernels/_moments_triton.py), values are [ROWS, group], numbers
[ROWS, 1].

A step is bound by memory only if an element costs some hundred instructions, so logarithms, reciprocals and floors
avoid the library's functions and slow conversions, and second moments are handled by their roots: the exponents are
halved, which one exponential turns into the root or its inverse.
"""

from __future__ import annotations

from math import log

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.moments import LOG_UNIT, MOST_POWER, NAN_BITS, ONE_BITS, SMALLEST_STEP

SIGN_BIT = constant(-(2**31))
MAGNITUDE_BITS = constant(2**31 - 1)
SMALLEST_BITS = constant(0x00800000)  # of SMALLEST_MAGNITUDE; bits of magnitudes order like the magnitudes
INFINITE = constant(0x7F800000 - 0x00800000)  # of infinity, above those
MANTISSA_BITS = constant(0x007FFFFF)
ONE_FLOAT_BITS = constant(0x3F800000)
LARGEST_BFLOAT16 = constant(0x7F7F0000)
NAN_NUMBER = constant(NAN_BITS)
ONE_NUMBER = constant(ONE_BITS)
MOST = constant(MOST_POWER)
FEWEST_OCTAVES = constant(2.0**-100)  # stands for the zero octaves of a constant group, whose k the ceiling gives
UNIT = constant(LOG_UNIT)
UNITS = constant(1 / LOG_UNIT)
FINEST = constant(SMALLEST_STEP)
LOG2_E = constant(1 / log(2))
ROUND_SIGNED = constant(12582912.0)  # 1.5 · 2^23: a sum with it holds the nearest integer in its low bits, ties to even
ROUND_SIGNED_BITS = constant(0x4B400000)
# log2(1 + t) - t on [0, 1], to 0.0008: what of it is missing, one step of Newton's method adds.
LOG_1, LOG_2, LOG_3 = constant(0.42459388), constant(-0.58920672), constant(0.16538379)
# sqrt(h / sinh(h)) as a polynomial of D², h = D · ln(2) / 2, D up to 2.05, to 1e-8.
UNBIAS_1, UNBIAS_2, UNBIAS_3, UNBIAS_4 = (
    constant(number) for number in (-1.00094378e-02, 9.01683192e-05, -8.71704988e-07, 8.22085487e-09)
)


@jit
def log2(x):
    """log2 of positive normal x, at most 3e-7 octaves off, and exact for powers of two."""
    bits = _cast.bits_of(x)
    mantissa = _cast.float_of((bits & MANTISSA_BITS) | ONE_FLOAT_BITS)
    t = mantissa - 1.0
    guess = t + t * (t * (t * LOG_3 + LOG_2) + LOG_1)
    missing = (mantissa * tl.exp2(-guess) - 1.0) * LOG2_E
    return ((bits >> 23) - 127).to(tl.float32) + (guess + missing)


@jit
def reciprocal(x):
    """1 / x of positive normal x, to 2^-21."""
    root = tl.rsqrt(x)
    return root * root


@jit
def with_sign_of(magnitude, x):
    """`magnitude` with the sign of x."""
    return _cast.float_of(_cast.bits_of(magnitude) | (_cast.bits_of(x) & SIGN_BIT))


@jit
def above_smallest(x):
    """Bits of |x| above those of the smallest magnitude that counts: negative where |x| counts as zero."""
    return (_cast.bits_of(x) & MAGNITUDE_BITS) - SMALLEST_BITS


@jit
def extremes(above):
    """(high, low, occupied, finite): largest and smallest magnitude of every group, 1 and 1 where there are none."""
    high = tl.max(above, axis=1, keep_dims=True)
    low = tl.min(above.to(tl.uint32, bitcast=True), axis=1, keep_dims=True).to(tl.int32, bitcast=True)
    occupied = high >= 0
    one: tl.constexpr = ONE_FLOAT_BITS - SMALLEST_BITS
    return (
        _cast.float_of(tl.where(occupied, high, one) + SMALLEST_BITS),
        _cast.float_of(tl.where(occupied, low, one) + SMALLEST_BITS),
        occupied,
        high < INFINITE,
    )


@jit
def encode_expanded(x, table_ptr, C: tl.constexpr):
    """(codes, a, k, finite)."""
    above = above_smallest(x)
    high, low, _, finite = extremes(above)
    octaves = tl.maximum(log2(_cast.divide(high, low)), FEWEST_OCTAVES)
    power = tl.floor(_cast.divide(tl.zeros_like(octaves) + C.steps_in_range, octaves)) * C.step
    power = tl.minimum(tl.maximum(power, C.least_power), MOST)
    y = tl.exp2(power * log2(tl.abs(x) * _cast.divide(tl.zeros_like(high) + 1.0, high))) * C.largest
    if C.second:
        y = tl.maximum(y, C.smallest)
    y = tl.where(above >= 0, y, 0.0)
    return _cast.encode(y if C.second else with_sign_of(y, x), 0, table_ptr, C.element, False), high, power, finite


@jit
def decode_expanded(codes, high, power, table_ptr, C: tl.constexpr):
    """Values."""
    stored = _cast.decode(codes, table_ptr, C.element)
    magnitude = tl.abs(stored)
    octaves = log2(tl.where(magnitude > 0.0, magnitude, 1.0)) - C.log2_largest
    expanded = tl.exp2(octaves * _cast.divide(tl.zeros_like(power) + 1.0, power)) * high
    return with_sign_of(tl.where(magnitude > 0.0, expanded, 0.0 * high), stored)


@jit
def group_scale(x, ZERO: tl.constexpr, C: tl.constexpr):
    """(scale of every group as it is stored, ZERO of groups of zeros; finite)."""
    high = tl.max(_cast.bits_of(x) & MAGNITUDE_BITS, axis=1, keep_dims=True)
    finite = high < INFINITE + SMALLEST_BITS
    scale = _cast.amax_scale(_cast.float_of(high), C.target, _cast.TINY, ZERO)
    if C.scale == tl.bfloat16:
        scale = _cast.float_of(tl.minimum(_cast.bits_of(_cast.round_to_bfloat16(scale)), LARGEST_BFLOAT16))
    return scale, finite


@jit
def encode_softsign(x, u, C: tl.constexpr):
    """(codes, s, finite)."""
    scale, finite = group_scale(x, 0.0, C)
    z = x * reciprocal(tl.maximum(scale, _cast.TINY))
    y = z * reciprocal(1.0 + tl.abs(z)) * (2.0 * C.levels)
    # floor(y + u) as the integer nearest to half below it.
    rounded = y + ROUND_SIGNED if C.rounding == "nearest" else y + (u - 0.5) + ROUND_SIGNED
    codes = _cast.bits_of(rounded) - ROUND_SIGNED_BITS
    return tl.minimum(tl.maximum(codes, -C.levels), C.levels), scale, finite


@jit
def decode_softsign(codes, scale, u, C: tl.constexpr):
    """Values."""
    code = codes.to(tl.float32)
    if C.rounding == "dither":
        code += 0.5 - u
    return code * scale * reciprocal(2.0 * C.levels - tl.abs(code))


@jit
def encode_log(x, random, C: tl.constexpr):
    """(codes, lo in units, the bits of D, finite), the numbers int32. random: see `_moments_triton._random`."""
    above = above_smallest(x)
    high, low, occupied, finite = extremes(above)
    highest = log2(high)
    units = tl.floor(tl.maximum(log2(low), highest - C.most_octaves) * UNITS)
    span = tl.maximum((highest - units * UNIT) * (1.0 / C.levels), FINEST)
    step_bits = (_cast.bits_of(span) + 0xFFFF) & -65536
    step = _cast.float_of(step_bits)
    half = 0.5 * C.levels
    middle = x * tl.exp2(-(units * UNIT + half * step))
    y = log2(middle) * reciprocal(step) + (half - 0.5)
    if C.rounding == "dither":
        rounded = (y + random) + ROUND_SIGNED
        place = _cast.bits_of(rounded) - ROUND_SIGNED_BITS
    else:
        tl.static_assert(C.rounding == "stochastic")
        rounded = y + ROUND_SIGNED
        below = rounded - ROUND_SIGNED
        odds = 65536.0 * _cast.divide(tl.zeros_like(step) + 1.0, tl.exp2(step) - 1.0)
        # Up where (half + 1/2) / 2^16 is at most the probability.
        up = random <= middle * tl.exp2((half - below) * step) * odds - (odds + 0.5)
        place = _cast.bits_of(rounded) - ROUND_SIGNED_BITS + up.to(tl.int32)
    codes = tl.where(above >= 0, tl.minimum(tl.maximum(place, 0), C.levels) + 1, 0)
    units = tl.where(occupied, units, 0.0).to(tl.int32)
    return codes, units, tl.where(occupied, step_bits >> 16, ONE_NUMBER), finite


@jit
def decode_log(codes, lo, step, u, C: tl.constexpr):
    """(v, root, inverse)."""
    gain = tl.exp2(0.5 * lo + (0.25 * C.levels) * step)
    place = codes.to(tl.float32) - (1.0 + 0.5 * C.levels)
    if C.rounding == "dither":
        place += 0.5 - u
        square = step * step
        unbias = square * (square * (square * UNBIAS_4 + UNBIAS_3) + UNBIAS_2) + UNBIAS_1
        gain *= 1.0 + square * unbias
    exponent = place * (0.5 * step)
    nothing = 0.0 * step
    root = tl.where(codes == 0, nothing, tl.exp2(exponent) * gain)
    return root * root, root, tl.where(codes == 0, nothing, tl.exp2(-exponent) * reciprocal(gain))
