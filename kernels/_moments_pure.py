"""Stored moments as pure functions of [groups, group] tensors: what torch.compile fuses, and for any device.

Groups may have two axes (`PureCodec.axes`), where two codecs with different groups are to be fused.

The formulas are those of `kernels/moments.py`; the twin that works in place, for CPUs, is `kernels/_moments_torch.py`.
u are the draws of kernels/random_words.py, of the values' shape, None for codecs that take none. Numbers of `log` are
int32 [groups, 1] here, both in one: compilers know no int16.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from narrowgauge.kernels._companded_pure import decode_log, decode_softsign, encode_log, encode_softsign
from narrowgauge.kernels._group_numbers import group_scale
from narrowgauge.kernels._pure_codec import PureCodec
from narrowgauge.kernels._pure_math import (
    LEAST_EXPONENT,
    SIGN_BIT,
    SMALLEST_BITS,
    absent,
    bfloat16_values,
    exp2,
    extremes,
    float_codes,
    float_values,
    keep,
    log2,
    magnitude_bits,
)
from narrowgauge.kernels._scales_torch import inverse
from narrowgauge.kernels._steady_torch import exp2 as steady_exp2
from narrowgauge.kernels._tables_torch import EncodeTable
from narrowgauge.kernels.layout import Layout
from narrowgauge.kernels.moments import MOST_POWER, SMALLEST_MAGNITUDE


def whitening(values: Tensor) -> Tensor:
    """1 / sqrt(v), 0 where v is 0."""
    return torch.where(values == 0, 0.0, torch.rsqrt(torch.where(values == 0, 1.0, values)))


def decode_rows(codec: PureCodec, codes: Tensor, scale: Tensor | None, u: Tensor | None = None) -> Tensor:
    """float32 [groups, group] of codes, one a byte, and numbers [groups, columns]; of `log` the root of v, of whitened
    moments what is stored. Not for rank-1 and quantile."""
    if scale is None:
        return codes.float()
    if codec.kind == "log":
        return decode_log(codec, codes, scale, u)
    numbers = scale.float()
    if codec.kind == "softsign":
        return decode_softsign(codec, codes, numbers, u)
    values = _values(codec, codes)
    if codec.kind == "expanded":
        return _decode_expanded(codec, values, numbers)
    values = values * numbers
    return values * values if codec.kind == "root" else values


def _values(codec: PureCodec, codes: Tensor) -> Tensor:
    """float32 values of codes, one a byte."""
    if codec.layout is None or codec.integer:
        return codes.float()
    if codec.values is None:
        return float_values(codes, codec.layout)
    return codec.values[codes.to(torch.int32) & 0xFF]


def _decode_expanded(codec: PureCodec, values: Tensor, numbers: Tensor) -> Tensor:
    amax, power = numbers[..., :1], numbers[..., 1:]
    root = 1 / power
    root, factor = keep(root, amax * steady_exp2(root * -math.log2(codec.largest)))
    bits = magnitude_bits(values)
    expanded = exp2(log2(bits.clamp(min=SMALLEST_BITS).view(torch.float32)) * root).view(torch.int32) & ~absent(bits)
    magnitude = expanded.view(torch.float32) * factor
    return magnitude if codec.second else _with_sign(magnitude, values)


def _with_sign(magnitude: Tensor, of: Tensor) -> Tensor:
    return (magnitude.view(torch.int32) | (of.view(torch.int32) & SIGN_BIT)).view(torch.float32)


def encode_rows(
    codec: PureCodec, x: Tensor, u: Tensor | None = None, whiten: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(codes, one a byte; numbers; 1 / sqrt(v̂) for `whiten`) of float32 x [groups, group]; codes and numbers as
    `decode_rows` takes them."""
    if codec.kind == "log":
        return encode_log(codec, x, u, whiten)
    if codec.kind == "plain":
        values = bfloat16_values(x, u) if codec.narrows else x
        codes, scale = values.to(codec.narrow), None
    else:
        encode = {"softsign": encode_softsign, "expanded": _encode_expanded}.get(codec.kind, _encode_scaled)
        wide, numbers, high = encode(codec, x, u)
        finite = high < torch.inf
        codes = torch.where(finite, wide, codec.zero_code).to(codec.narrow)
        scale = torch.where(finite, numbers, torch.nan).to(codec.number)
    if not whiten:
        return codes, scale, None
    return codes, scale, whitening(decode_rows(codec, codes, scale))


def _nearest(codec: PureCodec, y: Tensor, positive: Tensor) -> Tensor:
    """Codes, int32, of the values of a format nearest to y; NaN gets some code. positive: magnitudes of what is
    encoded, as integers: of a second moment, what is positive gets the smallest positive value at least."""
    layout = codec.layout
    if layout is None or codec.integer:
        codes = torch.round(y).to(torch.int32).clamp(int(codec.lowest), int(codec.largest))
        return torch.maximum(codes, positive.clamp(max=1)) if codec.second else codes
    bits = y.view(torch.int32)
    magnitude = magnitude_bits(y).clamp(max=codec.largest_bits)
    if codec.second:
        magnitude = torch.maximum(magnitude, -positive.clamp(max=1) & codec.smallest_bits)
    if codec.codes is None:
        return _signed_float(float_codes(magnitude, layout), bits, layout)
    return _by_table(codec.codes, magnitude | (bits & SIGN_BIT))


def _signed_float(codes: Tensor, bits: Tensor, layout: Layout) -> Tensor:
    if not layout.sign_bit:
        return codes & ~(bits >> 31)  # what is negative has the code of zero
    negative = (bits >> 31) & layout.sign_bit
    return codes | (negative if layout.negative_zero else negative & -codes.clamp(max=1))


def _by_table(table: EncodeTable, bits: Tensor) -> Tensor:
    """The same by table, of float32 numbers as integers."""
    if table.direct is not None:
        return table.direct[(((bits & 0xFFFF) + 0xFFFF) | bits) >> 16 & 0xFFFF].to(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    if table.steps is None:
        rank = torch.bucketize(ordered, table.thresholds, out_int32=True, right=True)
    else:
        first = table.steps[(ordered >> table.cut) + (1 << (31 - table.cut))]
        rank = (first + (ordered & ((1 << table.cut) - 1))) >> table.cut
    return rank if table.codes is None else table.codes[rank].to(torch.int32)


def _encode_scaled(codec: PureCodec, x: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.sqrt(x) if codec.kind == "root" else x
    high = y.abs().amax(codec.axes, keepdim=True)
    scale = group_scale(high, codec)
    scale, per_scale = keep(scale, inverse(scale))
    return _nearest(codec, y * per_scale, magnitude_bits(x)), scale, high


def _encode_expanded(codec: PureCodec, x: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    bits = magnitude_bits(x)
    missing = absent(bits)
    high, low = extremes(x, bits, missing, codec.axes)
    largest = high
    occupied = (high >= SMALLEST_MAGNITUDE) & (high < torch.inf)
    high, low = torch.where(occupied, high, 1.0), torch.where(occupied, low, 1.0)
    steps = codec.power_steps
    power = torch.floor(steps * codec.log2_range / torch.log2(high / low)) / steps
    power, high, per_high = keep(power.clamp(codec.least_power, MOST_POWER), high, 1 / high)
    ratio = bits.clamp(min=SMALLEST_BITS).view(torch.float32) * per_high
    y = exp2((log2(ratio) * power).clamp(min=LEAST_EXPONENT)) * codec.largest
    kept = (y.view(torch.int32) & ~missing).view(torch.float32)
    return _nearest(codec, _with_sign(kept, x), bits & ~missing), torch.cat((high, power), dim=-1), largest
