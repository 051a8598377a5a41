"""Stored moments in Triton: device functions that read and write one block of whole groups. Definition, formulas and
names are those of `kernels/moments.py`; twin: `kernels/_moments_torch.py`.

A block is BLOCK elements of the flattened tensor, held as [BLOCK // WIDTH, WIDTH]; with WIDTH the group's size, the
statistics of a group are those of a row and nothing moves between threads. `codes_ptr` and `scale_ptr` point at the
block's own codes and numbers, `left` elements from there belong to the tensor. Those beyond read as zero, which no
statistic looks at.

A second moment comes as three: v, its root and the root's inverse (0 where v is 0), which whitened first moments are
multiplied by; logarithms give all three for one exponential each.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2
from typing import Any, NamedTuple

import torch

from narrowgauge.kernels import _cast
from narrowgauge.kernels._companded_triton import (
    NAN_NUMBER,
    UNIT,
    decode_expanded,
    decode_log,
    decode_softsign,
    encode_expanded,
    encode_log,
    encode_softsign,
    group_scale,
)
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import Layout, layout_of
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.random_words import random_draws, random_halves


class MomentLayout(NamedTuple):
    """What the device functions know of a `MomentCodec`: one compile-time constant. code, scale: Triton's types of
    stored elements and numbers. packed: two codes a byte, signed: in two's complement."""

    kind: str
    group: int
    columns: int
    second: bool
    target: float
    largest: float
    smallest: float
    zero_code: int
    step: float
    steps_in_range: float
    least_power: float
    log2_largest: float
    element: Layout | None
    code: Any
    scale: Any
    rounding: str
    whitened: bool
    packed: bool
    signed: bool
    levels: int
    most_octaves: float


def triton_type(dtype: torch.dtype) -> Any:
    """Triton's type of the elements of a tensor."""
    return getattr(tl, str(dtype).removeprefix("torch."))


@lru_cache(maxsize=64)
def moment_layout(codec: MomentCodec) -> MomentLayout:
    """The layout of `codec`."""
    element = layout_of(codec.element) if codec.format and codec.is_coded else None
    return MomentLayout(
        kind=codec.kind,
        group=codec.group,
        columns=codec.columns,
        second=codec.second,
        target=codec.target if element else 1.0,
        largest=codec.largest if element else 0.0,
        smallest=codec.smallest if element else 0.0,
        zero_code=codec.zero_code,
        step=1.0 / codec.power_steps,
        steps_in_range=codec.power_steps * codec.log2_range,
        least_power=codec.least_power,
        log2_largest=log2(codec.largest) if element else 0.0,
        element=element,
        code=triton_type(codec.dtype),
        scale=triton_type(codec.torch_scale_dtype),
        rounding=codec.rounding,
        whitened=codec.whitened,
        packed=codec.per_byte > 1,
        signed=codec.kind == "softsign" or (element is not None and element.signed_codes),
        levels=codec.levels,
        most_octaves=codec.levels * codec.most_step,
    )


@jit
def places(ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Places in a block of ROWS · WIDTH elements, int32 [ROWS, WIDTH]."""
    return tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@jit
def _numbers(scale_ptr, left, COLUMN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """One number of every group, as stored, [ROWS, 1]."""
    rows = tl.arange(0, ROWS)
    return tl.load(scale_ptr + rows * C.columns + COLUMN, mask=rows * C.group < left, other=0)[:, None]


@jit
def _store_numbers(first, other, scale_ptr, left, C: tl.constexpr, ROWS: tl.constexpr):
    """Stores the numbers [ROWS, 1] of every group, together: what each of them costs is a barrier."""
    if C.columns == 2:
        numbers = tl.reshape(tl.join(first.to(C.scale), other.to(C.scale)), (ROWS, 2))
    else:
        numbers = first.to(C.scale)
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, C.columns)[None, :]
    tl.store(scale_ptr + (rows * C.columns + columns), numbers, mask=rows * C.group + 0 * columns < left)


@jit
def _load_codes(codes_ptr, left, C: tl.constexpr, ROWS: tl.constexpr):
    """int32 codes, [ROWS, group]."""
    if C.packed:
        offs = places(ROWS, C.group // 2)
        pair = tl.load(codes_ptr + offs, mask=2 * offs < left, other=C.zero_code | C.zero_code << 4).to(tl.int32)
        codes = tl.join((pair << 28) >> 28, (pair << 24) >> 28) if C.signed else tl.join(pair & 15, pair >> 4)
        return tl.reshape(codes, (ROWS, C.group))
    else:
        offs = places(ROWS, C.group)
        return tl.load(codes_ptr + offs, mask=offs < left, other=C.zero_code).to(tl.int32)


@jit
def _store_codes(codes, codes_ptr, left, C: tl.constexpr, ROWS: tl.constexpr):
    if C.packed:
        offs = places(ROWS, C.group // 2)
        low, high = tl.split(tl.reshape(codes, (ROWS, C.group // 2, 2)))
        tl.store(codes_ptr + offs, ((low & 15) | ((high & 15) << 4)).to(C.code), mask=2 * offs < left)
    else:
        offs = places(ROWS, C.group)
        tl.store(codes_ptr + offs, codes.to(C.code), mask=offs < left)


@jit
def _three(value, C: tl.constexpr):
    """(v, root, inverse); of a first moment, itself three times."""
    if C.second:
        root = tl.sqrt_rn(value)
        return value, root, _inverse(root)
    else:
        return value, value, value


@jit
def _inverse(root):
    return tl.where(root == 0.0, 0.0, _cast.divide(tl.zeros_like(root) + 1.0, tl.where(root == 0.0, 1.0, root)))


@jit
def _decode(codes, first, other, u, table_ptr, C: tl.constexpr):
    """(value, root, inverse) of codes (int32) [ROWS, group] under numbers (float32) [ROWS, 1]."""
    if C.kind == "log":
        return decode_log(codes, first, other, u, C)
    elif C.kind == "softsign":
        return _three(decode_softsign(codes, first, u, C), C)
    elif C.kind == "expanded":
        return _three(decode_expanded(codes, first, other, table_ptr, C), C)
    else:
        value = _cast.decode(codes, table_ptr, C.element) * first
        if C.kind == "root":
            return value * value, value, _inverse(value)
        else:
            return _three(value, C)


@jit
def _random(start, key, C: tl.constexpr, ROWS: tl.constexpr):
    """What a codec's rounding takes, float32: draws u to be added, the 16 bits that u is made of for a probability."""
    if C.rounding == "dither" or (C.rounding == "stochastic" and C.kind == "softsign"):
        return random_draws(start, key, ROWS, C.group)
    elif C.rounding == "stochastic":
        return random_halves(start, key, ROWS, C.group).to(tl.float32)
    else:
        return 0.0


@jit
def load_moment(codes_ptr, scale_ptr, table_ptr, left, start, key,
                C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """(value, root, inverse), float32 [BLOCK // WIDTH, WIDTH]; root and inverse mean something for second moments.

    table_ptr: see `_cast.encode`. start (int64): place of the block in the whole parameter. key (uint32): of the step
    that wrote the codes. Whitened moments come whitened.
    """
    if C.kind == "plain":
        offs = places(BLOCK // WIDTH, WIDTH)
        return _three(tl.load(codes_ptr + offs, mask=offs < left, other=0.0).to(tl.float32), C)
    else:
        ROWS: tl.constexpr = BLOCK // C.group
        codes = _load_codes(codes_ptr, left, C, ROWS)
        first, other = _load_numbers(scale_ptr, left, C, ROWS)
        u = _random(start, key, C, ROWS) if C.rounding == "dither" else 0.0
        value, root, inverse = _decode(codes, first, other, u, table_ptr, C)
        if C.packed:
            # The second code of the last byte may lie beyond the end.
            value = tl.where(places(ROWS, C.group) < left, value, 0.0)
        return _reshaped(value, root, inverse, BLOCK, WIDTH)


@jit
def _load_numbers(scale_ptr, left, C: tl.constexpr, ROWS: tl.constexpr):
    first = _numbers(scale_ptr, left, 0, C, ROWS)
    if C.kind == "log":
        bits = _numbers(scale_ptr, left, 1, C, ROWS).to(tl.int32) << 16
        return first.to(tl.float32) * UNIT, _cast.float_of(bits)
    elif C.kind == "expanded":
        return first, _numbers(scale_ptr, left, 1, C, ROWS)
    else:
        return first.to(tl.float32), first.to(tl.float32)


@jit
def _reshaped(value, root, inverse, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    shape: tl.constexpr = (BLOCK // WIDTH, WIDTH)
    return tl.reshape(value, shape), tl.reshape(root, shape), tl.reshape(inverse, shape)


@jit
def _encode_scaled(x, table_ptr, C: tl.constexpr):
    """(codes, scale, finite) of the kinds linear and root."""
    scale, finite = group_scale(x, 1.0, C)
    y = x * _cast.inverse_scale(scale)
    if C.second:
        y = tl.where(x > 0.0, tl.maximum(y, C.smallest), y)
    return _cast.encode(y, 0, table_ptr, C.element, False), scale, finite


@jit
def store_moment(x, codes_ptr, scale_ptr, table_ptr, left, start, key,
                 C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Stores x, [BLOCK // WIDTH, WIDTH], under the key of this step; returns what `load_moment` will give."""
    if C.kind == "plain":
        offs = places(BLOCK // WIDTH, WIDTH)
        if C.code == tl.bfloat16:
            if C.rounding == "stochastic":
                x = _cast.round_to_bfloat16_by(x, random_halves(start, key, BLOCK // WIDTH, WIDTH))
            else:
                x = _cast.round_to_bfloat16(x)
        tl.store(codes_ptr + offs, x.to(C.code), mask=offs < left)
        return _three(x, C)
    else:
        ROWS: tl.constexpr = BLOCK // C.group
        x = tl.reshape(tl.sqrt_rn(x) if C.kind == "root" else x, (ROWS, C.group))
        u = _random(start, key, C, ROWS)
        if C.kind == "log":
            codes, units, step, finite = encode_log(x, u, C)
            step = tl.where(finite, step, NAN_NUMBER)
            units = tl.where(finite, units, 0)
            _store_numbers(units, step, scale_ptr, left, C, ROWS)
            first, other = units.to(tl.float32) * UNIT, _cast.float_of(step << 16)
        else:
            if C.kind == "expanded":
                codes, first, other, finite = encode_expanded(x, table_ptr, C)
            elif C.kind == "softsign":
                codes, first, finite = encode_softsign(x, u, C)
                other = first
            else:
                codes, first, finite = _encode_scaled(x, table_ptr, C)
                other = first
            first = tl.where(finite, first, float("nan"))
            other = tl.where(finite, other, float("nan"))
            _store_numbers(first, other, scale_ptr, left, C, ROWS)
        codes = tl.where(finite, codes, C.zero_code)
        _store_codes(codes, codes_ptr, left, C, ROWS)
        value, root, inverse = _decode(codes, first, other, u, table_ptr, C)
        return _reshaped(value, root, inverse, BLOCK, WIDTH)
