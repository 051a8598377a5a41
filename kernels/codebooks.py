"""Search tables: from a float32 value to the code of the nearest entry of a sorted 8-bit codebook.

`thresholds[i]` is the smallest float32 that encodes to code i + 1 (by the format's own `encode`), so a code is the
number of thresholds that do not exceed the value: no arithmetic, hence no rounding, on any device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import CodebookFormat, get


@lru_cache(maxsize=32)
def threshold_array(name: str) -> NDArray[np.float32]:
    """float32 [entries - 1] of the codebook called `name`; ValueError unless its codes ascend with its values."""
    fmt = get(name)
    if not isinstance(fmt, CodebookFormat) or fmt.bits > 8 or np.any(np.diff(fmt.table) <= 0):
        raise ValueError(f"name: expected an ascending codebook of at most 256 values, got {name!r}")
    levels = np.asarray(fmt.table)
    middle = ((levels[:-1] + levels[1:]) / 2).astype(np.float32)
    # The rounded middle is right or one float32 off; the format itself decides which, and how ties go.
    candidates = np.stack([np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf))])
    reaches = fmt.encode(candidates).astype(np.int64) > np.arange(len(middle))
    return candidates[np.argmax(reaches, axis=0), np.arange(len(middle))]


@lru_cache(maxsize=32)
def thresholds(name: str, device: torch.device) -> Tensor:
    """`threshold_array`, padded with infinity to 255 entries."""
    array = threshold_array(name)
    padded = np.full(255, np.inf, dtype=np.float32)
    padded[: len(array)] = array
    return torch.from_numpy(padded).to(device)


class Bins(NamedTuple):
    """The floats cut into bins by their upper bits, narrow enough to hold one threshold at most:

    code = upper[bin] - (x < threshold[bin]),   bin = (bits(x) >> shift) & mask

    threshold is -infinity where a bin holds none.
    """

    shift: int
    mask: int
    upper: Tensor
    threshold: Tensor


@lru_cache(maxsize=32)
def bins(name: str) -> Bins:
    """The coarsest cut that serves the codebook `name`: two table reads a value instead of a search (for the CPU)."""
    bounds = threshold_array(name)
    for mantissa_bits in range(24):
        shift = 23 - mantissa_bits
        count = 1 << (9 + mantissa_bits)
        start = np.arange(count, dtype=np.uint32) << np.uint32(shift)
        ends = np.stack([start, start | np.uint32((1 << shift) - 1)]).view(np.float32)
        low, high = (
            np.fmin(*ends),
            np.fmax(*ends),
        )  # a negative bin ascends the other way; fmin leaves NaN aside
        first = np.searchsorted(bounds, np.nan_to_num(low), side="right")
        last = np.searchsorted(bounds, np.nan_to_num(high), side="right")
        if np.max(last - first) <= 1:
            threshold = np.where(last > first, bounds[last - 1], np.float32(-np.inf))
            return Bins(shift, count - 1, torch.from_numpy(last.astype(np.int32)), torch.from_numpy(threshold))
    raise ValueError(f"name: two thresholds of {name!r} coincide in float32")


def encode_codebook(y: Tensor, name: str, scratch: Tensor) -> Tensor:
    """int32 codes of the entries nearest to flat float32 y, on the CPU. y holds no NaN and is overwritten; scratch:
    as much float32 memory, which holds the codes on return."""
    table = bins(name)
    index = torch.bitwise_right_shift(y.view(torch.int32), table.shift).bitwise_and_(table.mask)
    y.sub_(torch.index_select(table.threshold, 0, index, out=scratch[: y.numel()]))
    # Arithmetic shift of the difference: -1 below the threshold, else 0.
    below = y.view(torch.int32).bitwise_right_shift_(31)
    return torch.index_select(table.upper, 0, index, out=scratch[: y.numel()].view(torch.int32)).add_(below)
