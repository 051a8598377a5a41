"""Stored moments in Triton: device functions that read and write one block of whole groups. Definition, formulas and
names are those of `kernels/moments.py`; twin: `kernels/_moments_torch.py`.

A block is BLOCK elements of the flattened tensor, held as [BLOCK // WIDTH, WIDTH]; with WIDTH the group's size, the
statistics of a group are those of a row and nothing moves between threads. Elements beyond the end read as zero, which
no statistic looks at.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2
from typing import NamedTuple

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.layout import Layout, layout_of
from narrowgauge.kernels.moments import MOST_POWER, MomentCodec

SIGN_BIT = constant(-(2**31))
INFINITY_BITS = constant(0x7F800000)
SMALLEST_BITS = constant(0x00800000)  # of SMALLEST_MAGNITUDE; bits of magnitudes order like the magnitudes
LARGEST_BITS = constant(0x7F7FFFFF)
MOST = constant(MOST_POWER)
FEWEST_OCTAVES = constant(2.0**-100)  # stands for the zero octaves of a constant group, whose k the ceiling gives


class MomentLayout(NamedTuple):
    """What the device functions know of a `MomentCodec`: one compile-time constant."""

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


@lru_cache(maxsize=64)
def moment_layout(codec: MomentCodec) -> MomentLayout:
    """The layout of `codec`."""
    plain = codec.kind == "plain"
    return MomentLayout(
        kind=codec.kind,
        group=codec.group,
        columns=codec.columns,
        second=codec.second,
        target=0.0 if plain else codec.target,
        largest=0.0 if plain else codec.largest,
        smallest=0.0 if plain else codec.smallest,
        zero_code=codec.zero_code,
        step=1.0 / codec.power_steps,
        steps_in_range=codec.power_steps * codec.log2_range,
        least_power=codec.least_power,
        log2_largest=0.0 if plain else log2(codec.largest),
        element=None if plain else layout_of(codec.element),
    )


@jit
def _with_sign_of(magnitude, x):
    return _cast.float_of(_cast.bits_of(magnitude) | (_cast.bits_of(x) & SIGN_BIT))


@jit
def block_offsets(pid, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Places in the flattened tensor, [BLOCK // WIDTH, WIDTH], of block `pid` (int64)."""
    rows = pid * (BLOCK // WIDTH) + tl.arange(0, BLOCK // WIDTH)
    return rows[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@jit
def load_moment(codes_ptr, scale_ptr, table_ptr, pid, n, C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """float32 moments of block `pid` (int64), [BLOCK // WIDTH, WIDTH]. table_ptr: see `_cast.encode`."""
    if C.kind == "plain":
        offs = block_offsets(pid, BLOCK, WIDTH)
        return tl.load(codes_ptr + offs, mask=offs < n, other=0.0).to(tl.float32)
    else:
        ROWS: tl.constexpr = BLOCK // C.group
        rows = pid * ROWS + tl.arange(0, ROWS)
        offs = block_offsets(pid, BLOCK, C.group)
        codes = tl.load(codes_ptr + offs, mask=offs < n, other=C.zero_code)
        scale = tl.load(scale_ptr + rows * C.columns, mask=rows * C.group < n, other=1.0)[:, None]
        if C.kind == "expanded":
            power = tl.load(scale_ptr + rows * C.columns + 1, mask=rows * C.group < n, other=1.0)[:, None]
            stored = _cast.decode(codes, table_ptr, C.element)
            magnitude = tl.abs(stored)
            octaves = tl.log2(tl.where(magnitude > 0.0, magnitude, 1.0)) - C.log2_largest
            expanded = tl.exp2(_cast.divide(octaves, power + tl.zeros_like(octaves))) * scale
            value = _with_sign_of(tl.where(magnitude > 0.0, expanded, 0.0 * scale), stored)
        else:
            value = _cast.decode(codes, table_ptr, C.element) * scale
            if C.kind == "root":
                value = value * value
        return tl.reshape(value, (BLOCK // WIDTH, WIDTH))


@jit
def _expand(x, bits, C: tl.constexpr):
    """(y, a, k): the values to be coded, signs included, and the numbers of every group; x is finite."""
    bits = tl.where(bits < SMALLEST_BITS, 0, bits)
    high = _cast.float_of(tl.max(bits, axis=1))
    low = _cast.float_of(tl.min(tl.where(bits == 0, LARGEST_BITS, bits), axis=1))
    occupied = high > 0.0
    high = tl.where(occupied, high, 1.0)
    low = tl.where(occupied, low, 1.0)
    octaves = tl.maximum(tl.log2(_cast.divide(high, low)), FEWEST_OCTAVES)
    power = tl.floor(_cast.divide(tl.zeros_like(octaves) + C.steps_in_range, octaves)) * C.step
    power = tl.minimum(tl.maximum(power, C.least_power), MOST)
    ratio = _cast.float_of(bits) * _cast.divide(tl.zeros_like(high) + 1.0, high)[:, None]
    positive = bits > 0
    y = tl.exp2(power[:, None] * tl.log2(tl.where(positive, ratio, 1.0))) * C.largest
    if C.second:
        y = tl.maximum(y, C.smallest)
    return _with_sign_of(tl.where(positive, y, 0.0), x), high, power


@jit
def _rescale(x, bits, C: tl.constexpr):
    """(y, scale): the values to be coded, and the scale of every group; x is finite."""
    high = _cast.float_of(tl.max(bits, axis=1))
    scale = _cast.amax_scale(high, C.target, _cast.TINY, 1.0)
    y = x * _cast.inverse_scale(scale)[:, None]
    if C.second:
        y = tl.where(x > 0.0, tl.maximum(y, C.smallest), y)
    return y, scale


@jit
def store_moment(x, codes_ptr, scale_ptr, table_ptr, pid, n, C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Stores what `load_moment` gave."""
    if C.kind == "plain":
        offs = block_offsets(pid, BLOCK, WIDTH)
        value = x if codes_ptr.dtype.element_ty == tl.float32 else round_to_bfloat16(x)
        tl.store(codes_ptr + offs, value.to(codes_ptr.dtype.element_ty), mask=offs < n)
    else:
        ROWS: tl.constexpr = BLOCK // C.group
        rows = pid * ROWS + tl.arange(0, ROWS)
        offs = block_offsets(pid, BLOCK, C.group)
        x = tl.reshape(x, (ROWS, C.group))
        if C.kind == "root":
            x = tl.sqrt_rn(x)
        bits = _cast.bits_of(tl.abs(x))
        finite = tl.max(bits, axis=1) < INFINITY_BITS
        bits = tl.where(finite[:, None], bits, 0)
        x = tl.where(finite[:, None], x, 0.0)
        if C.kind == "expanded":
            y, scale, power = _expand(x, bits, C)
            power = tl.where(finite, power, float("nan"))
            tl.store(scale_ptr + rows * C.columns + 1, power, mask=rows * C.group < n)
        else:
            y, scale = _rescale(x, bits, C)
        tl.store(scale_ptr + rows * C.columns, tl.where(finite, scale, float("nan")), mask=rows * C.group < n)
        codes = _cast.encode(y, 0, table_ptr, C.element, False)
        tl.store(codes_ptr + offs, codes.to(codes_ptr.dtype.element_ty), mask=offs < n)


@jit
def round_to_bfloat16(x):
    """float32 rounded to nearest-even at 8 significant bits (Triton's interpreter truncates the cast that follows)."""
    bits = _cast.bits_of(x)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x != x, x, _cast.float_of(rounded))
