"""Stochastic rounding to integers and minifloats on a CPU, in few passes over blocks that the caches hold.

A code with its fraction, in units of 2^-24, is one int32 V; with R the random bits the code is (V + R) >> 24, which
carries across binades like the formula of `kernels/_cast_torch.py`:

    integers     V = trunc(y · 2^24); of a negative y, whose code is that of |y|, 1 + ((V - 1 - R) >> 24)
    minifloats   V = trunc(|y| · 2^(t - E) · 2^24) + (E - emin) · 2^(t + 24),   E = max(exponent of y, emin)

Products with powers of two are exact, and so are conversions to int32 that only cut off what lies below 2^-24: the bits
are those of the definition. Sums may wrap: only the upper byte counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels.layout import Layout

BLOCK = 1 << 16
"""Elements encoded at a time."""
EXPONENT = 0x7F800000
ONE = float(1 << RANDOM_BITS)


def serves_stochastic(layout: Layout) -> bool:
    """Whether V fits an int32."""
    if layout.kind == "int":
        return layout.min_code >= -128 and layout.max_code <= 127
    return layout.kind == "float" and layout.mantissa_bits <= 6


def encode_stochastic(y: Tensor, layout: Layout, random: Tensor) -> Tensor:
    """Codes (`layout.code_dtype`) of float32 `y` without NaN, scratch if contiguous. random: RANDOM_BITS bits of each
    element, int32."""
    codes = torch.empty(y.shape, dtype=layout.code_dtype)
    values, bits, target = y.reshape(-1), random.reshape(-1), codes.view(-1)
    encode = _integers if layout.kind == "int" else _floats
    scratch = torch.empty((3, min(BLOCK, values.numel())), dtype=torch.int32)
    for start in range(0, values.numel(), BLOCK):
        part = slice(start, start + BLOCK)
        size = target[part].numel()
        encode(values[part], bits[part], target[part], layout, scratch[:, :size])
    return codes


def _integers(y: Tensor, random: Tensor, target: Tensor, layout: Layout, scratch: Tensor) -> None:
    code, sign, _ = scratch
    code.copy_(y.mul_(ONE * (1 << layout.fraction_bits)).clamp_(layout.min_code * ONE, layout.max_code * ONE))
    torch.bitwise_right_shift(code, 31, out=sign)
    code.add_(torch.bitwise_xor(random, sign, out=y.view(torch.int32)))
    target.copy_(code.bitwise_right_shift_(RANDOM_BITS).sub_(sign))


def _floats(y: Tensor, random: Tensor, target: Tensor, layout: Layout, scratch: Tensor) -> None:
    code, field, magnitude = scratch
    t, a, sign = layout.mantissa_bits, magnitude.view(torch.float32), y.view(torch.int32)
    if layout.sign_bit:
        torch.abs(y, out=a).clamp_(max=layout.max)
        sign.bitwise_right_shift_(31)
    else:
        torch.clamp(y, 0.0, layout.max, out=a)
    torch.bitwise_and(magnitude, EXPONENT, out=field).clamp_(min=(layout.emin + 127) << 23)
    # The complement of the exponent field is that of 2^(1 - E), and E again.
    code.copy_(a.mul_(field.bitwise_xor_(EXPONENT).view(torch.float32)).mul_(ONE * 2.0 ** (t - 1)))
    code.sub_(field, alpha=1 << (t + 1)).add_(random).bitwise_right_shift_(RANDOM_BITS)
    zero_exponent = (128 - layout.emin) << t
    if layout.flush or not layout.negative_zero:
        code.add_(zero_exponent).bitwise_and_(0xFF)
        zero_exponent = 0
        if layout.flush:
            code.masked_fill_(code < (1 << t), 0)
        if layout.sign_bit and not layout.negative_zero:
            sign.bitwise_and_(torch.neg(code, out=field).bitwise_right_shift_(31))
    if layout.sign_bit:
        code.sub_(sign, alpha=layout.sign_bit)
    target.copy_(code)
    if zero_exponent:
        target.add_(zero_exponent & 0xFF)
