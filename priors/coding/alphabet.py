"""Which symbols occur, how often, and their ranks: 0 is the most frequent (BackSlash, arXiv 2504.16968, Algorithm 2).

Symbols are integers of any numpy type, up to 2^63 - 1. Where they span at most 65536 values, and always where they
have at most 16 bits, they become indices of 8 or 16 bits by one subtraction, and everything after that is a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[Any]
IntArray: TypeAlias = NDArray[np.int64]

DENSE = 1 << 16
"""Most values that indices of 16 bits tell apart."""
_COUNTED = 1 << 20


def checked_symbols(symbols: Any) -> Integers:
    """A flat, contiguous array. TypeError for anything but integers, ValueError above 2^63 - 1."""
    array = np.asarray(symbols)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"symbols: got an array of {array.dtype}, accepted: integers")
    if array.dtype.kind not in "iu":
        array = array.astype(np.int64)
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
        raise ValueError(f"symbols: got {int(array.max())}, accepted: integers up to 2^63 - 1")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(native).reshape(-1)


@dataclass(frozen=True)
class Alphabet:
    """The distinct symbols of an array in the order of their ranks.

    index: one small number for each symbol of the array, uint8 or uint16; int64 where there are more than 65536
    distinct symbols. slots: rank → its index. values: rank → symbol, int64. counts: rank → how often, descending.
    size: how many indices there are.
    """

    index: Integers
    slots: IntArray
    values: IntArray
    counts: IntArray
    size: int

    @property
    def entropy(self) -> float:
        """Bits for each symbol."""
        if self.counts.size < 2:
            return 0.0
        share = self.counts / self.counts.sum()
        return float(-(share * np.log2(share)).sum())

    def spread(self, of_rank: NDArray[Any]) -> NDArray[Any]:
        """A table over ranks as one over indices; zero for indices that do not occur."""
        table = np.zeros(self.size, dtype=of_rank.dtype)
        table[self.slots] = of_rank
        return table


def alphabet_of(symbols: Integers) -> Alphabet:
    """The alphabet of a flat array; equally frequent symbols in ascending order."""
    index, values = _indices(symbols)
    counts = _count(index, values.size)
    present = np.flatnonzero(counts)
    slots = present[np.lexsort((values[present], -counts[present]))]
    return Alphabet(index, slots, values[slots], counts[slots], values.size)


def _indices(symbols: Integers) -> tuple[Integers, IntArray]:
    """(index of every symbol, symbol of every index)."""
    if not symbols.size:
        return symbols.astype(np.uint8), np.zeros(1, dtype=np.int64)
    if symbols.itemsize <= 2:
        unsigned = np.dtype(f"u{symbols.itemsize}")
        every = np.arange(1 << 8 * symbols.itemsize, dtype=np.int64)
        return symbols.view(unsigned), every.astype(unsigned).view(symbols.dtype).astype(np.int64)
    low, high = int(symbols.min()), int(symbols.max())
    if high - low < DENSE:
        narrow = np.uint8 if high - low < 256 else np.uint16
        return (symbols - symbols.dtype.type(low)).astype(narrow), np.arange(low, high + 1, dtype=np.int64)
    values, index = np.unique(symbols, return_inverse=True)
    return index.astype(np.uint16 if values.size <= DENSE else np.int64), values.astype(np.int64)


def _count(index: Integers, size: int) -> IntArray:
    """How often each index occurs; bytes by pairs, which halves the work."""
    even = index.size // 2 * 2
    if index.itemsize > 2 or index.size < DENSE:
        return np.bincount(index, minlength=size)
    if index.dtype == np.uint16:
        return _count_narrow(index)[:size]
    square = _count_narrow(index[:even].view(np.uint16)).reshape(256, 256)
    counts = square.sum(axis=0) + square.sum(axis=1) + np.bincount(index[even:], minlength=256)
    return counts[:size]


def _count_narrow(index: NDArray[np.uint16]) -> IntArray:
    """Of 16 bits, piece by piece: numpy makes 64 bits of them."""
    counts = np.zeros(DENSE, dtype=np.int64)
    for start in range(0, index.size, _COUNTED):
        counts += np.bincount(index[start : start + _COUNTED], minlength=DENSE)
    return counts
