"""Stochastic rounding between the levels of a table, in few passes over blocks that the caches hold; on any device.

The rule is that of `kernels/tables.py`, in its float64 operations. What depends on the level alone is looked up by the
level's rank and, in mirrored formats, the sign of the value: the level that frac is counted from, the step in units of
2^-24, and the codes of staying and of moving.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Format
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels._ranks_torch import Buckets, buckets, ranks
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import ordered, search_table

BLOCK = 1 << 16
"""Elements rounded at a time."""


class LevelTable(NamedTuple):
    """lowest, highest: levels. search: for ranks. base, step: float64 [levels], or [2 · levels] in mirrored
    formats, those of negative values last; step in units of 2^-24. codes: two for each of these, staying and moving."""

    lowest: float
    highest: float
    mirrored: bool
    base: Tensor
    step: Tensor
    codes: Tensor
    search: Buckets


@lru_cache(maxsize=64)
def level_table(fmt: Format, flush: bool, device: torch.device) -> LevelTable:
    """The table of a format of at most 8 bits whose stochastic rule `search_table` knows."""
    table = search_table(fmt, flush)
    levels, mirrored = table.levels.astype(np.float64), bool(table.mirrored)
    low = np.arange(len(levels))
    high = np.minimum(low + 1, len(levels) - 1)
    step = np.where(high > low, levels[high] - levels[low], 1.0)
    stay, move = low, high
    if mirrored:
        # No zero between the two: a magnitude below the smallest becomes the smallest.
        crossing = (levels[low] < 0) & (levels[high] > 0)
        positive, negative = np.where(crossing, high, stay), np.where(crossing, low, high)
        stay, move = np.concatenate([positive, negative]), np.concatenate([high, low])
    codes = table.level_codes[np.stack([stay, move], axis=-1)]
    if mirrored:
        below_zero = np.arange(len(stay))[:, None] >= len(levels)
        zero = levels[np.stack([stay, move], axis=-1)] == 0
        codes = np.where(below_zero & zero, table.negative_zero, codes)
    return LevelTable(
        lowest=float(levels[0]),
        highest=float(levels[-1]),
        mirrored=mirrored,
        base=torch.from_numpy(np.concatenate([levels[low], levels[high]]) if mirrored else levels).to(device),
        step=torch.from_numpy(np.tile(step, 2) if mirrored else step).to(device).mul_(2.0**-RANDOM_BITS),
        codes=torch.from_numpy(codes.reshape(-1)).to(device, layout_of(fmt).code_dtype),
        search=buckets(ordered(table.levels[1:]), device),
    )


def encode_between_levels(y: Tensor, fmt: Format, flush: bool, random: Tensor) -> Tensor:
    """Codes of float32 `y` without NaN, scratch if contiguous. random: RANDOM_BITS bits of each element, int32."""
    table = level_table(fmt, flush, y.device)
    codes = torch.empty(y.shape, dtype=table.codes.dtype, device=y.device)
    values, bits, target = y.reshape(-1), random.reshape(-1), codes.view(-1)
    size = min(BLOCK, values.numel())
    narrow, wide = bits.new_empty((3, size)), values.new_empty((2, size), dtype=torch.float64)
    for start in range(0, values.numel(), BLOCK):
        part = slice(start, start + BLOCK)
        size = target[part].numel()
        _between(values[part], bits[part], target[part], table, narrow[:, :size], wide[:, :size])
    return codes


def _between(y: Tensor, random: Tensor, target: Tensor, table: LevelTable, narrow: Tensor, wide: Tensor) -> None:
    (rank, sign, spare), (frac, level) = narrow, wide
    if table.mirrored:
        torch.bitwise_right_shift(y.view(torch.int32), 31, out=sign)
    frac.copy_(y.clamp_(table.lowest, table.highest).add_(0.0))  # no -0
    ranks(y.view(torch.int32), table.search, spare, rank)
    if table.mirrored:
        rank.sub_(sign, alpha=len(table.base) // 2)
    torch.index_select(table.base, 0, rank, out=level)
    frac.sub_(level)
    if table.mirrored:
        frac.abs_()
    frac.div_(torch.index_select(table.step, 0, rank, out=level))
    spare.copy_(frac)
    if not table.mirrored:
        # The quotient of a value just below its upper level may be rounded to 1.
        spare.clamp_(max=(1 << RANDOM_BITS) - 1)
    moves = spare.add_(random).bitwise_right_shift_(RANDOM_BITS)
    torch.index_select(table.codes, 0, moves.add_(rank, alpha=2), out=target)
