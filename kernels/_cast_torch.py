"""Encode and decode in torch: the twin of `kernels/_cast.py`, bit for bit.

Written with few, in-place passes over blocks that stay in cache, and so that inductor fuses it into one. `encode`
takes over its argument: `y` is scratch afterwards.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import FloatFormat, Format
from narrowgauge.formats.philox import MULTIPLIERS, ROUNDS, WEYL
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels.layout import RF8_THRESHOLDS, Layout, layout_of

_MASK32 = 0xFFFFFFFF


def rounding_bits(shape: torch.Size | tuple[int, ...], seed: int, offset: int, device: torch.device) -> Tensor:
    """RANDOM_BITS random bits per element (int32) of a row-major tensor of this shape; see formats/philox.py."""
    count = 1
    for size in shape:
        count *= size
    blocks = torch.arange((count + 3) // 4, device=device)
    c0, c1 = blocks & _MASK32, blocks >> 32
    c2 = torch.full_like(blocks, offset & _MASK32)
    c3 = torch.full_like(blocks, (offset >> 32) & _MASK32)
    key0, key1 = seed & _MASK32, (seed >> 32) & _MASK32
    for _ in range(ROUNDS):
        # 32 x 32 bit products wrap in int64, but their bits are right: the masks take the halves.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) & _MASK32) ^ c1 ^ key0, p1 & _MASK32
        c2, c3 = ((p0 >> 32) & _MASK32) ^ c3 ^ key1, p0 & _MASK32
        key0, key1 = (key0 + WEYL[0]) & _MASK32, (key1 + WEYL[1]) & _MASK32
    words = torch.stack((c0, c1, c2, c3), dim=-1).reshape(-1)[:count]
    return (words >> (32 - RANDOM_BITS)).to(torch.int32).reshape(shape)


def round_magnitude(s: Tensor, random: Tensor | None) -> Tensor:
    """Non-negative float32 `s` < 2^22 (scratch) to int32: ties to even, or stochastic with `random`."""
    if random is None:
        return s.round_().to(torch.int32)
    low = torch.floor(s)
    up = (s.sub_(low).mul_(1 << RANDOM_BITS).to(torch.int32) + random) >> RANDOM_BITS
    return low.to(torch.int32).add_(up)


def _encode_float(y: Tensor, layout: Layout, random: Tensor | None) -> Tensor:
    negative = y.view(torch.int32) < 0
    a = y.abs_().clamp_(max=layout.max)
    lowest = (layout.emin + 127) << 23
    exponent = (a.view(torch.int32) & 0x7F800000).clamp_(min=lowest)
    power = (254 + layout.mantissa_bits - (exponent >> 23)) << 23
    base = exponent.sub_(lowest) >> (23 - layout.mantissa_bits)
    s = a.mul_(power.view(torch.float32))
    if layout.mantissa_bits == 0 and random is None:
        # One bit of precision: "even" is the parity of the code, not of the significand, which is always 1.
        low = torch.floor(s)
        code = base.add_(low.to(torch.int32))
        frac = s.sub_(low)
        code = code + ((frac > 0.5) | ((frac == 0.5) & ((code & 1) == 1)))
    else:
        code = base.add_(round_magnitude(s, random))
    if layout.sign_bit == 0:
        return code.masked_fill_(negative, 0)
    if not layout.negative_zero:
        negative = negative & (code != 0)
    return code.add_(negative, alpha=layout.sign_bit)


def _encode_int(y: Tensor, layout: Layout, random: Tensor | None) -> Tensor:
    scaled = y.mul_(float(1 << layout.fraction_bits)).clamp_(layout.min_code, layout.max_code)
    if random is None:
        return scaled.round_().to(torch.int32)
    negative = scaled < 0
    code = round_magnitude(scaled.abs_(), random)
    return torch.where(negative, -code, code)


def _encode_rf8(y: Tensor, layout: Layout, random: Tensor | None) -> Tensor:
    negative = y < 0
    a = y.abs_().clamp_(max=layout.max)
    bits = a.view(torch.int32)
    field = bits & 0x7FFFFF
    row = (bits >> 23) - 127 + layout.bias
    if random is None:
        level = torch.zeros_like(field)
        for bound in RF8_THRESHOLDS:
            level += field >= bound
        code = row * 8 + 4 + level + (level >= 4)
        code = torch.where(code < 1, (a >= 0.375 * 2.0**-layout.bias).to(torch.int32), code)
    else:
        code = _rf8_stochastic(a, field, row, layout, random)
    return code.add_(negative & (code != 0), alpha=0x80)


def _rf8_stochastic(a: Tensor, field: Tensor, row: Tensor, layout: Layout, random: Tensor) -> Tensor:
    # Levels of an octave in sixteenths: 16 17 18 20 24 28 30 32.
    sixteenths = field >> 19
    level = torch.zeros_like(field)
    for bound in (1, 2, 4, 8, 12, 14):
        level += sixteenths >= bound
    low = torch.where(level < 3, level, torch.where(level < 5, 4 * (level - 2), 2 * level + 2))
    log_step = (level >= 2).to(torch.int32) + ((level == 3) | (level == 4))
    frac = ((field - (low << 19)) << 5) >> log_step
    level = level + ((frac + random) >> RANDOM_BITS)
    code = row * 8 + 4 + level + (level >= 4)
    # Below the smallest value 3 · 2^(-2 - bias) the interval reaches to zero: thirds are taken on integers.
    smallest = 3.0 * 2.0 ** (-2 - layout.bias)
    thirds = (a.clamp(max=smallest) * 2.0 ** (26 + layout.bias)).to(torch.int32)
    below = (thirds.div(3, rounding_mode="floor") + random) >> RANDOM_BITS
    return torch.where(a < smallest, below, code)


_ENCODERS = {"float": _encode_float, "int": _encode_int, "rf8": _encode_rf8}


def encode(y: Tensor, layout: Layout, random: Tensor | None = None, *, may_have_nan: bool = True) -> Tensor:
    """Codes (`layout.code_dtype`) of float32 `y`, which is overwritten. random: `rounding_bits` for stochastic
    rounding. NaN gives the positive NaN code, or 0 in formats without one; `may_have_nan=False` skips the search."""
    isnan = torch.isnan(y) if may_have_nan else None
    if isnan is not None:
        y = torch.where(isnan, 0.0, y)
    code = _ENCODERS[layout.kind](y, layout, random)
    if isnan is not None:
        code = code.masked_fill_(isnan, max(layout.nan_code, 0))
    return code.to(layout.code_dtype)


@lru_cache(maxsize=64)
def decode_table(fmt: Format, device: torch.device) -> Tensor:
    """float32 value of each of the 256 bytes, from the format's own definition."""
    values = fmt.values()
    repeats = 256 // len(values)
    return torch.from_numpy(np.tile(values, repeats)).to(device=device, dtype=torch.float32)


def decode(codes: Tensor, fmt: Format) -> Tensor:
    """float32 values of codes (uint8, or int8 for signed integers), in the layout of `codes`."""
    layout = layout_of(fmt)
    if layout.kind == "int":
        return codes.float().mul_(2.0**-layout.fraction_bits)
    # float16 reads exponent field 31 as Inf or NaN, so the largest finite code must lie below it.
    if isinstance(fmt, FloatFormat) and fmt.bits == 8 and fmt.signed and layout.max_code >> fmt.mantissa_bits < 31:
        special = (codes & 0x7F) > layout.max_code
        if layout.nan_code == 0x80:
            special |= codes == 0x80
        if not special.any():
            return _decode_through_half(codes, fmt)
    table = decode_table(fmt, codes.device)
    flat = torch.as_strided(codes, (codes.numel(),), (1,)) if _dense(codes) else codes.reshape(-1)
    values = torch.index_select(table, 0, flat.int())
    return torch.as_strided(values, codes.shape, codes.stride()) if _dense(codes) else values.view(codes.shape)


def _dense(t: Tensor) -> bool:
    return t.is_contiguous() or t.t().is_contiguous() if t.dim() == 2 else t.is_contiguous()


def _decode_through_half(codes: Tensor, fmt: FloatFormat) -> Tensor:
    """Finite 8-bit codes with at most 5 exponent bits: the bits move into a float16 whose hardware conversion also
    deals with subnormals, and a power of two corrects the bias."""
    shift = 10 - fmt.mantissa_bits
    # Sign extension fills every bit above the code; the mask keeps the sign and the moved field.
    keep = -32768 | (0x7F << shift)
    half = codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(shift).bitwise_and_(keep)
    return half.view(torch.float16).float().mul_(2.0 ** (15 - fmt.bias))
