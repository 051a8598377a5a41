"""Stochastic rounding to integers and minifloats on a CPU, in few passes over blocks that the caches hold.

A code with its fraction, in units of 2^-24, is one int32 V; with R the random bits the code is (V + R) >> 24, which
carries across binades like the formula of `kernels/_cast_torch.py`:

    integers     V = trunc(y · 2^24); of a negative y, whose code is that of |y|, 1 + ((V - 1 - R) >> 24)
    minifloats   V = max(trunc(min(|y| · 2^(t - emin), 2^t) · 2^24), (P - ((emin + 126) << 23)) · 2^(t + 1))

with P the pattern of |y|, or of 2^(emin - 1) if that is more: on P's side a code counts the values from that power of
two on, as if it were the last below the normal ones; there the line of the subnormal values lies above, and ends at
2^emin. Products with powers of two are exact, and so are conversions to int32 that only cut off what lies below 2^-24:
the bits are those of the definition.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels.layout import Layout

BLOCK = 1 << 16
"""Elements encoded at a time."""
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
    t, a, share, sign = (
        layout.mantissa_bits,
        magnitude.view(torch.float32),
        field.view(torch.float32),
        y.view(torch.int32),
    )
    if layout.sign_bit:
        torch.abs(y, out=a)
        sign.bitwise_right_shift_(31)
    else:
        torch.clamp(y, min=0.0, out=a)
    # 2^(24 + t - emin) may be beyond float32.
    torch.mul(a, 2.0 ** (t - layout.emin), out=share).mul_(ONE).clamp_(max=ONE * 2.0**t)
    code.copy_(share)
    a.clamp_(2.0 ** (layout.emin - 1), layout.max)
    # Codes beyond 127 order like signed numbers when the upper bit is turned over.
    turned = layout.max_code > 127
    lowest = ((layout.emin + 126) << t) + (128 if turned else 0)
    if turned:
        code.bitwise_xor_(-1 << 31)
    torch.add(_units(-lowest), magnitude, alpha=1 << (t + 1), out=field)
    torch.maximum(code, field, out=code).add_(random).bitwise_right_shift_(RANDOM_BITS)
    if turned:
        code.add_(128)
    if layout.flush:
        code.masked_fill_(code < (1 << t), 0)
    if layout.sign_bit:
        if not layout.negative_zero:
            sign.bitwise_and_(torch.neg(code, out=field).bitwise_right_shift_(31))
        code.sub_(sign, alpha=layout.sign_bit)
    target.copy_(code)


@lru_cache(maxsize=256)
def _units(number: int) -> Tensor:
    """number · 2^24 modulo 2^32, as int32."""
    return torch.tensor(((number & 0xFF) << RANDOM_BITS) - ((number & 0x80) << (RANDOM_BITS + 1)), dtype=torch.int32)
