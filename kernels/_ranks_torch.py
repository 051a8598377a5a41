"""How many thresholds a float32 number reaches, by two look-ups; on any device.

The ordered patterns (`kernels/tables.py`) are cut into buckets so narrow that none holds more than one threshold. A
bucket stores the rank of its first number and the place of its threshold, packed such that adding the lower bits
carries into the rank. Thresholds too close together for that are searched.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CUTS = (16, 12)
"""Widths of a bucket in bits: 65,536 buckets, which a core's cache holds, else a million."""
_MAGNITUDE = 0x7FFFFFFF


class Buckets(NamedTuple):
    """steps: int32 [2^(32 - cut)], (rank of the first number << cut) + 2^cut - (place of the threshold); None, with
    cut 0, where no cut is fine enough. thresholds: int32, ascending ordered patterns."""

    cut: int
    steps: Tensor | None
    thresholds: Tensor


def buckets(thresholds: NDArray[np.int32], device: torch.device) -> Buckets:
    """Of ascending ordered patterns."""
    places = torch.from_numpy(thresholds).to(device)
    for cut in CUTS:
        start = np.arange(-(1 << (31 - cut)), 1 << (31 - cut), dtype=np.int64) << cut
        width = 1 << cut
        first = np.searchsorted(thresholds, start, side="right")
        last = np.searchsorted(thresholds, start + width - 1, side="right")
        if np.max(last - first, initial=0) <= 1:
            place = np.full(start.size, width, np.int64)
            holds = last > first
            place[holds] = thresholds[first[holds]] - start[holds]
            packed = (first << cut) + width - place
            return Buckets(cut, torch.from_numpy(packed.astype(np.int32)).to(device), places)
    return Buckets(0, None, places)


def ranks(bits: Tensor, table: Buckets, spare: Tensor, out: Tensor) -> Tensor:
    """How many thresholds do not exceed each number, int32, in `out`. bits: int32 [n] of float32 numbers, overwritten;
    spare, out: int32 [n]."""
    torch.bitwise_right_shift(bits, 31, out=spare)
    bits.bitwise_xor_(spare.bitwise_and_(_MAGNITUDE))
    if table.steps is None:
        return torch.bucketize(bits, table.thresholds, out_int32=True, right=True, out=out)
    cut = table.cut
    index = torch.bitwise_right_shift(bits, cut, out=spare).add_(1 << (31 - cut))
    torch.index_select(table.steps, 0, index, out=out)
    return out.add_(bits.bitwise_and_((1 << cut) - 1)).bitwise_right_shift_(cut)
