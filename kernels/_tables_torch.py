"""Encode and decode by table in torch, the quick way on a CPU for every format of at most 8 bits; runs on any device.

Nearest codes, by the first of these that serves:

1. Where no threshold lies inside an interval between numbers of seven stored bits (minifloats, posit, HiFloat8, …), the
   upper half of a float32, its last bit set if anything is lost (which is rounding to odd), says all: one gather.
2. The ordered patterns (`kernels/tables.py`) are cut into buckets so narrow that none holds more than one threshold. A
   bucket stores the rank of its first code and the place of its threshold, packed such that adding the lower bits
   carries into the rank: two gathers give the code, or one where codes are ranks.
3. Values too close together for the buckets are searched for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import Format
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import LEVEL_CODES, LEVELS, SearchTable, float32_values, search_table, table_blob

BLOCK = 1 << 20
"""Elements decoded or rounded at a time, which bounds the buffers."""
INFINITY = 0x7F800000
CUTS = (16, 12)
"""Widths of a bucket in bits: 65,536 buckets, which a core's cache holds, else a million."""


class EncodeTable(NamedTuple):
    """direct: codes [65536] by upper half, or None. codes: [ranks], None where the rank is the code. steps: int32
    [2^(32 - cut)], (rank of the first code << cut) + 2^cut - (place of the threshold); None, with thresholds to be
    searched, where no cut is fine enough."""

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
    thresholds = torch.from_numpy(table.thresholds).to(device)
    for cut in CUTS:
        start = np.arange(-(1 << (31 - cut)), 1 << (31 - cut), dtype=np.int64) << cut
        width = 1 << cut
        first = np.searchsorted(table.thresholds, start, side="right")
        last = np.searchsorted(table.thresholds, start + width - 1, side="right")
        if np.max(last - first, initial=0) <= 1:
            place = np.full(start.size, width, np.int64)
            holds = last > first
            place[holds] = table.thresholds[first[holds]] - start[holds]
            packed = (first << cut) + width - place
            return EncodeTable(None, codes, cut, torch.from_numpy(packed.astype(np.int32)).to(device), thresholds)
    return EncodeTable(None, codes, 0, None, thresholds)


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
    torch.bitwise_right_shift(bits, 31, out=spare)
    bits.bitwise_xor_(spare.bitwise_and_(0x7FFFFFFF))
    if table.steps is None:
        rank = torch.bucketize(bits, table.thresholds, out_int32=True, right=True)
    else:
        cut = table.cut
        index = torch.bitwise_right_shift(bits, cut, out=spare).add_(1 << (31 - cut))
        rank = torch.index_select(table.steps, 0, index, out=other)
        rank.add_(bits.bitwise_and_((1 << cut) - 1)).bitwise_right_shift_(cut)
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
    codes = encode_by_table(y, fmt, flush) if random is None else _encode_stochastic(y, fmt, flush, random)
    return codes if isnan is None else codes.masked_fill_(isnan, max(layout_of(fmt).nan_code, 0))


def _encode_stochastic(y: Tensor, fmt: Format, flush: bool, random: Tensor) -> Tensor:
    codes = torch.empty(y.shape, dtype=layout_of(fmt).code_dtype, device=y.device)
    rows = max(1, BLOCK // max(1, y[:1].numel()))
    for start in range(0, y.shape[0], rows):
        part = slice(start, start + rows)
        codes[part] = _between_levels(y[part], fmt, flush, random[part])
    return codes


def _between_levels(y: Tensor, fmt: Format, flush: bool, random: Tensor) -> Tensor:
    """Stochastic codes (int32); see `kernels/tables.py`, whose float64 operations these are."""
    layout, blob = layout_of(fmt, flush), table_blob(fmt, y.device, flush)
    patterns = blob[LEVELS : LEVELS + layout.levels]
    levels = (patterns ^ ((patterns >> 31) & 0x7FFFFFFF)).view(torch.float32).double()
    x = y.double().clamp_(levels[0], levels[-1])
    low = (torch.searchsorted(levels, x, right=True) - 1).clamp_(min=0)
    high = (low + 1).clamp_(max=layout.levels - 1)
    below, above = levels[low], levels[high]
    negative = torch.signbit(y) if layout.mirrored else torch.zeros_like(y, dtype=torch.bool)
    step = torch.where(high > low, above - below, 1.0)
    frac = torch.where(negative, above - x, x - below) / step
    moves = ((frac * (1 << RANDOM_BITS)).floor_().int() + random) >> RANDOM_BITS != 0
    rank = torch.where(moves != negative, high, low)
    if layout.mirrored:
        # No zero between the two: a magnitude below the smallest becomes the smallest.
        rank = torch.where((below < 0) & (above > 0), torch.where(negative, low, high), rank)
    codes = blob[LEVEL_CODES + rank]
    return torch.where(negative & (levels[rank] == 0), layout.zero_code, codes) if layout.mirrored else codes


@lru_cache(maxsize=64)
def decode_table(fmt: Format, device: torch.device) -> Tensor:
    """float32 value of each of the 256 bytes, from the format's own definition."""
    values = float32_values(fmt)
    return torch.from_numpy(np.tile(values, 256 // len(values))).to(device)


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
    """float32 values of codes (uint8, or int8 for signed integers), contiguous."""
    layout = layout_of(fmt)
    if layout.kind == "int":
        values = codes.to(torch.float32, memory_format=torch.contiguous_format)
        return values if layout.fraction_bits == 0 else values.mul_(2.0**-layout.fraction_bits)
    flat = codes.reshape(-1)
    values = torch.empty(flat.numel(), dtype=torch.float32, device=codes.device)
    by_hardware = codes.device.type == "cpu" and _moves_into_half(fmt)
    if by_hardware and _decode_through_half(flat.view(torch.int8), fmt, values):
        return values.view(codes.shape)
    table, unsigned = decode_table(fmt, codes.device), flat.view(torch.uint8)
    for start in range(0, flat.numel(), BLOCK):
        torch.index_select(table, 0, unsigned[start : start + BLOCK].int(), out=values[start : start + BLOCK])
    return values.view(codes.shape)
