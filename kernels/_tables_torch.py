"""Encode and decode by table in torch, the quick way on a CPU for every format of at most 8 bits; runs on any device.

Nearest codes: the ordered patterns (`kernels/tables.py`) are cut into buckets so narrow that none holds more than one
threshold. A bucket stores the rank of its first code and the place of its threshold, packed such that adding the lower
bits carries into the rank: two gathers give the code. Values too close together for the buckets are searched for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Format
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import LEVEL_CODES, LEVELS, float32_values, search_table, table_blob

BLOCK = 1 << 20
"""Elements decoded or rounded at a time, which bounds the buffers."""
CUTS = (16, 12)
"""Widths of a bucket in bits: 65,536 buckets, which a core's cache holds, else a million."""


class EncodeTable(NamedTuple):
    """codes: [ranks]. steps: int32 [2^(32 - cut)], (rank of the first code << cut) + 2^cut - (place of the threshold);
    None, with thresholds to be searched, where no cut is fine enough."""

    codes: Tensor
    cut: int
    steps: Tensor | None
    thresholds: Tensor


@lru_cache(maxsize=64)
def encode_table(fmt: Format, flush: bool, device: torch.device) -> EncodeTable:
    """The table of the format's own rounding rule; flush: of one that flushes subnormal results to zero."""
    table = search_table(fmt, flush)
    codes = torch.from_numpy(table.codes).to(device, layout_of(fmt).code_dtype)
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
            return EncodeTable(codes, cut, torch.from_numpy(packed.astype(np.int32)).to(device), thresholds)
    return EncodeTable(codes, 0, None, thresholds)


def encode_by_table(y: Tensor, fmt: Format, flush: bool = False) -> Tensor:
    """Codes of contiguous float32 `y` without NaN; `y` is scratch afterwards."""
    table = encode_table(fmt, flush, y.device)
    ordered = y.view(torch.int32)
    ordered.bitwise_xor_((ordered >> 31).bitwise_and_(0x7FFFFFFF))
    if table.steps is None:
        rank = torch.bucketize(ordered, table.thresholds, out_int32=True, right=True).view(-1)
    else:
        cut = table.cut
        rank = torch.index_select(table.steps, 0, (ordered >> cut).add_(1 << (31 - cut)).view(-1))
        rank.add_(ordered.bitwise_and_((1 << cut) - 1).view(-1)).bitwise_right_shift_(cut)
    return torch.index_select(table.codes, 0, rank).view(y.shape)


def encode_any(y: Tensor, fmt: Format, flush: bool, random: Tensor | None, *, may_have_nan: bool) -> Tensor:
    """Codes of float32 `y` (scratch) in a format of kind "table". random: see `_cast_torch.encode`. NaN
    gives the NaN code, 0 in formats without one."""
    isnan = torch.isnan(y) if may_have_nan else None
    if isnan is not None:
        y = y.masked_fill(isnan, 0.0)
    codes = encode_by_table(y.contiguous(), fmt, flush) if random is None else _encode_stochastic(y, fmt, flush, random)
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
