"""Encode and decode by table in torch, the quick way on a CPU for every format of at most 8 bits; runs on any device.

Nearest codes, by the first of these that serves:

1. Where no threshold lies inside an interval between numbers of seven stored bits (minifloats, posit, HiFloat8, …), the
   upper half of a float32, its last bit set if anything is lost (which is rounding to odd), says all: one gather.
2. Buckets of ordered patterns give the rank (`kernels/_ranks_torch.py`): two gathers give the code, or one where codes
   are ranks.
3. Values too close together for the buckets are searched for.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import Format
from narrowgauge.kernels._levels_torch import encode_between_levels
from narrowgauge.kernels._ranks_torch import Buckets, buckets, ranks
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import SearchTable, float32_values, search_table

BLOCK = 1 << 20
"""Elements decoded or rounded at a time, which bounds the buffers."""
INFINITY = 0x7F800000
PAIRS_PAY = 1 << 15
"""Pairs of codes from which on looking them up together is quicker."""


class EncodeTable(NamedTuple):
    """direct: codes [65536] by upper half, or None. codes: [ranks], None where the rank is the code. cut, steps,
    thresholds: `Buckets` of codes."""

    direct: Tensor | None
    codes: Tensor | None
    cut: int
    steps: Tensor | None
    thresholds: Tensor


@lru_cache(maxsize=64)
def encode_table(fmt: Format, flush: bool, device: torch.device) -> EncodeTable:
    """The table of the format's own rounding rule; flush: of one that flushes subnormal results to zero."""
    table = search_table(fmt, flush)
    dtype = layout_of(fmt).code_dtype
    direct = _by_upper_half(table)
    if direct is not None:
        return EncodeTable(torch.from_numpy(direct).to(device, dtype), None, 0, None, torch.empty(0))
    is_rank = np.array_equal(table.codes, np.arange(len(table.codes)))
    codes = None if is_rank else torch.from_numpy(table.codes).to(device, dtype)
    return EncodeTable(None, codes, *buckets(table.thresholds, device))


def _by_upper_half(table: SearchTable) -> NDArray[np.int32] | None:
    """Codes by (upper half of the bits | whether the lower half is not zero), None where that does not decide."""
    half = np.arange(1 << 16, dtype=np.int64)
    magnitude = half & 0x7FFF
    # An odd half stands for everything between its even neighbours; an even one for itself.
    low = np.where(half & 1, ((magnitude - 1) << 16) + 1, magnitude << 16)
    high = np.minimum(np.where(half & 1, ((magnitude + 1) << 16) - 1, magnitude << 16), INFINITY)
    sign = (half >> 15) != 0
    # Ordered patterns of negative numbers are the complement of their magnitude's.
    ends = [np.where(sign, -1 - np.minimum(end, INFINITY), np.minimum(end, INFINITY)) for end in (low, high)]
    first, last = (table.codes[np.searchsorted(table.thresholds, end, side="right")] for end in ends)
    return first if np.array_equal(first, last) else None


def encode_by_table(
    y: Tensor, fmt: Format, flush: bool = False, out: Tensor | None = None, scratch: Tensor | None = None
) -> Tensor:
    """Codes of contiguous float32 `y` without NaN; `y` is scratch afterwards. out: contiguous codes of y's shape, made
    if None; scratch: int32 memory of twice y's size, [2, elements], made if None."""
    table = encode_table(fmt, flush, y.device)
    bits = y.view(torch.int32).view(-1)
    spare, other = bits.new_empty((2, bits.numel())) if scratch is None else scratch
    codes = torch.empty(y.shape, dtype=layout_of(fmt).code_dtype, device=y.device) if out is None else out
    if table.direct is not None:
        torch.bitwise_and(bits, 0xFFFF, out=spare).add_(0xFFFF).bitwise_or_(bits)
        torch.index_select(table.direct, 0, spare.bitwise_right_shift_(16).bitwise_and_(0xFFFF), out=codes.view(-1))
        return codes
    rank = ranks(bits, Buckets(table.cut, table.steps, table.thresholds), spare, other)
    if table.codes is None:
        codes.view(-1).copy_(rank)
    else:
        torch.index_select(table.codes, 0, rank, out=codes.view(-1))
    return codes


def encode_any(y: Tensor, fmt: Format, flush: bool, random: Tensor | None, *, may_have_nan: bool) -> Tensor:
    """Codes of float32 `y` (scratch) in a format of kind "table". random: see `_cast_torch.encode`. NaN
    gives the NaN code, 0 in formats without one."""
    isnan = torch.isnan(y) if may_have_nan else None
    if isnan is not None:
        y = y.masked_fill(isnan, 0.0)
    y = y.contiguous()
    codes = encode_by_table(y, fmt, flush) if random is None else encode_between_levels(y, fmt, flush, random)
    return codes if isnan is None else codes.masked_fill_(isnan, max(layout_of(fmt).nan_code, 0))


@lru_cache(maxsize=64)
def decode_table(fmt: Format, device: torch.device) -> Tensor:
    """float32 value of each of the 256 bytes, from the format's own definition."""
    values = float32_values(fmt)
    return torch.from_numpy(np.tile(values, 256 // len(values))).to(device)


@lru_cache(maxsize=64)
def pair_table(fmt: Format) -> Tensor:
    """The float32 values of two bytes, the lower one first, as one 64-bit word: [65536] by both bytes as a number."""
    values = decode_table(fmt, torch.device("cpu"))
    return torch.stack((values.repeat(256), values.repeat_interleave(256)), dim=1).view(torch.int64).view(-1)


def _decode_pairs(codes: Tensor, fmt: Format, out: Tensor) -> int:
    """Decodes flat codes two at a time, one look-up for both, into flat `out`; how many were decoded: all but the last
    of an odd number, none where memory does not begin at a whole pair."""
    count = codes.numel() // 2 * 2
    if sys.byteorder != "little" or codes.device.type != "cpu" or count < 2 * PAIRS_PAY:
        return 0
    if codes.storage_offset() % 2 or out.storage_offset() % 2 or codes.data_ptr() % 2 or out.data_ptr() % 8:
        return 0
    table, words, pairs = pair_table(fmt), codes[:count].view(torch.int16), out[:count].view(torch.int64)
    for start in range(0, len(words), BLOCK):
        index = words[start : start + BLOCK].to(torch.int32).bitwise_and_(0xFFFF)
        torch.index_select(table, 0, index, out=pairs[start : start + BLOCK])
    return count


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


def decode(codes: Tensor, fmt: Format, out: Tensor | None = None) -> Tensor:
    """float32 values of codes (uint8, or int8 for signed integers), contiguous: in `out`, of codes' shape, if given."""
    layout = layout_of(fmt)
    target = torch.empty(codes.shape, dtype=torch.float32, device=codes.device) if out is None else out
    if layout.kind == "int":
        target.copy_(codes)
        return target if layout.fraction_bits == 0 else target.mul_(2.0**-layout.fraction_bits)
    flat, values = codes.reshape(-1), target.view(-1)
    by_hardware = codes.device.type == "cpu" and _moves_into_half(fmt)
    if by_hardware and _decode_through_half(flat.view(torch.int8), fmt, values):
        return target
    table, unsigned = decode_table(fmt, codes.device), flat.view(torch.uint8)
    for start in range(_decode_pairs(unsigned, fmt, values), flat.numel(), BLOCK):
        torch.index_select(table, 0, unsigned[start : start + BLOCK].int(), out=values[start : start + BLOCK])
    return target
