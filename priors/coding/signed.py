"""Signed integers as non-negative ones: 0, 1, -1, 2, -2, … become 0, 1, 2, 3, 4, …  (v > 0: 2v - 1, else -2v)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1 << 62


def to_unsigned(values: Any) -> NDArray[np.int64]:
    """The numbers of integers in [1 - 2^62, 2^62]. TypeError for other dtypes, ValueError beyond that range."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"values: got an array of {array.dtype}, accepted: integers")
    if array.size and not -LARGEST < int(array.min()) <= int(array.max()) <= LARGEST:
        raise ValueError(f"values: got {array.min()} to {array.max()}, accepted: 1 - 2^62 to 2^62")
    wide = array.astype(np.int64)
    # 2v - 1 of 2^62 must not pass through 2^63.
    return np.where(wide > 0, (wide - 1) * 2 + 1, -2 * np.minimum(wide, 0))


def to_signed(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers of numbers >= 0."""
    half = numbers >> 1
    return np.where(numbers & 1, half + 1, -half)
