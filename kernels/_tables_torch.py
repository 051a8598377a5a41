"""Encode and decode by table, the quick way on a CPU for every format of at most 8 bits.

A nearest-type encoder is monotone, so along the ordered float32 bit patterns its codes form at most 256 steps. Cut the
patterns into 65,536 buckets by their upper half: no bucket holds more than one step (checked when a table is built),
so a bucket stores the rank of its first code and the place of its step, packed such that adding the lower half carries
into the rank. Two gathers give the code; the tables come from the format's own `encode`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import Format
from narrowgauge.kernels.layout import layout_of

BLOCK = 1 << 20
"""Elements decoded at a time, which bounds the buffers."""


class EncodeTable(NamedTuple):
    """steps: int32 [65536], (rank of the first code << 16) + 65536 - (place of the step); codes: [ranks]."""

    steps: Tensor
    codes: Tensor


def _ordered_to_float(ordered: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 of ordered integers (the inverse of `o = bits ^ ((bits >> 31) & 0x7FFFFFFF)`), NaN patterns as ±inf."""
    bits = np.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).astype(np.int32)
    x = bits.view(np.float32)
    return np.where(np.isnan(x), np.copysign(np.float32(np.inf), x), x)


@lru_cache(maxsize=64)
def encode_table(fmt: Format) -> EncodeTable:
    """The table of the format's own rounding rule. ValueError if a bucket would need two steps."""
    start = np.arange(-32768, 32768, dtype=np.int64) << 16
    first, last = (fmt.encode(_ordered_to_float(ordered)) for ordered in (start, start + 0xFFFF))
    # Codes in the order in which they come: every one must come, and no one twice.
    sequence = np.stack((first, last), axis=1).reshape(-1)
    changed = np.concatenate(([True], sequence[1:] != sequence[:-1]))
    ranks = (np.cumsum(changed) - 1).reshape(-1, 2)
    every = fmt.encode(fmt.values()[np.isfinite(fmt.values())])
    if not np.isin(every, sequence).all() or len(np.unique(sequence)) != int(changed.sum()):
        raise ValueError(f"format: {fmt.name} has values too close together for an encode table")
    low, high = np.zeros(65536, np.int64), np.full(65536, 0x10000, np.int64)
    step = first != last
    for _ in range(17):
        middle = (low + high) // 2
        probe = fmt.encode(_ordered_to_float(start + np.minimum(middle, 0xFFFF)))
        reached = step & (probe != first) | (middle > 0xFFFF)
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle + 1)
        low = np.minimum(low, high)
    place = np.where(step, high, 0x10000)
    packed = (ranks[:, 0] << 16) + 0x10000 - place
    return EncodeTable(torch.from_numpy(packed.astype(np.int32)), torch.from_numpy(sequence[changed].copy()))


def encode_by_table(y: Tensor, fmt: Format) -> Tensor:
    """Codes of contiguous float32 `y` without NaN; `y` is scratch afterwards."""
    table = encode_table(fmt)
    ordered = y.view(torch.int32)
    ordered.bitwise_xor_((ordered >> 31).bitwise_and_(0x7FFFFFFF))
    rank = torch.index_select(table.steps, 0, (ordered >> 16).add_(32768).view(-1))
    rank.add_(ordered.bitwise_and_(0xFFFF).view(-1)).bitwise_right_shift_(16)
    return torch.index_select(table.codes, 0, rank).view(y.shape)


@lru_cache(maxsize=64)
def decode_table(fmt: Format) -> Tensor:
    """float32 value of each of the 256 bytes, from the format's own definition."""
    values = fmt.values()
    return torch.from_numpy(np.tile(values, 256 // len(values)).astype(np.float32))


def _moves_into_half(fmt: Format) -> bool:
    """Whether the bits of a code, shifted, are those of a float16 up to a power of two (whose exponent field 31 must
    stay free: float16 reads it as NaN or infinity)."""
    layout = layout_of(fmt)
    fits = layout.kind == "float" and layout.sign_bit == 0x80 and layout.negative_zero
    return fits and layout.max_code >> layout.mantissa_bits < 31


def _decode_through_half(codes: Tensor, fmt: Format, out: Tensor) -> bool:
    """Decodes int8 views of codes into `out` by float16's hardware conversion, which also deals with subnormals.
    False if a NaN or an infinity was met; `out` is then unfinished."""
    layout = layout_of(fmt)
    shift = 10 - layout.mantissa_bits
    buffer = torch.empty(min(codes.numel(), BLOCK), dtype=torch.int16)
    for start in range(0, codes.numel(), BLOCK):
        part = codes[start : start + BLOCK]
        half = buffer[: part.numel()].copy_(part)
        # Sign extension fills every bit above the code; the mask keeps the sign and the moved field.
        half.bitwise_left_shift_(shift).bitwise_and_(-32768 | (0x7F << shift))
        values = out[start : start + BLOCK].copy_(half.view(torch.float16))
        if half.bitwise_and_(0x7FFF).amax() > layout.max_code << shift:
            return False
        if layout.bias != 15:
            values.mul_(2.0 ** (15 - layout.bias))
    return True


def decode(codes: Tensor, fmt: Format) -> Tensor:
    """float32 values of CPU codes (uint8, or int8 for signed integers), contiguous."""
    layout = layout_of(fmt)
    if layout.kind == "int":
        values = codes.to(torch.float32, memory_format=torch.contiguous_format)
        return values if layout.fraction_bits == 0 else values.mul_(2.0**-layout.fraction_bits)
    flat = codes.reshape(-1)
    values = torch.empty(flat.numel(), dtype=torch.float32)
    if _moves_into_half(fmt) and _decode_through_half(flat.view(torch.int8), fmt, values):
        return values.view(codes.shape)
    table = decode_table(fmt)
    for start in range(0, flat.numel(), BLOCK):
        torch.index_select(table, 0, flat[start : start + BLOCK].int(), out=values[start : start + BLOCK])
    return values.view(codes.shape)
