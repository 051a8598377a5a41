"""Strings of bits in 64-bit words: many codewords packed at once, and windows at many places at once.

The first bit of a string is the most significant bit of its first word; in bytes, words are big-endian, so the bytes
read as the codewords one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Bytes: TypeAlias = NDArray[np.uint8]

WORD = 64
_WORD = np.uint64(WORD)
_INSIDE = np.uint64(WORD - 1)


def pack(values: Words, lengths: Words) -> tuple[Words, int]:
    """(words, bits) of the codewords one after the other: of `values[i]` the `lengths[i]` low bits (0 to 64), the
    rest of it zero."""
    ends = np.cumsum(lengths)
    bits = int(ends[-1]) if ends.size else 0
    if not bits:
        return np.zeros(0, dtype=np.uint64), 0
    starts = ends - lengths
    word = starts >> np.uint64(6)
    inside = starts & _INSIDE
    # Numpy shifts by 64 and more give zero.
    left = values << (_WORD - lengths)
    # Every word but perhaps the last has a codeword that starts in it: the last of each word, and its part in the next.
    last = np.flatnonzero(word[1:] != word[:-1])
    last = np.append(last, word.size - 1)
    # Codewords have no bit in common: the sum of those that start in a word, modulo 2^64, is all of them.
    sums = np.cumsum(left >> inside)[last]
    sums[1:] -= sums[:-1].copy()
    words = np.zeros(sums.size + 1, dtype=np.uint64)
    words[:-1] = sums
    words[1:] |= left[last] << (_WORD - inside[last])
    return words[: -(-bits // WORD)], bits


def join(strings: Iterable[tuple[Words, int]], bits: int) -> Bytes:
    """The bytes of several strings of `bits` bits in all, one after the other without a gap; ceil(bits / 8) of them."""
    words = np.zeros(bits // WORD + 2, dtype=np.uint64)
    at = 0
    for string, length in strings:
        first, shift = divmod(at, WORD)
        words[first : first + string.size] |= string >> np.uint64(shift)
        if shift:
            words[first + 1 : first + 1 + string.size] |= string << np.uint64(WORD - shift)
        at += length
    return words.astype(">u8").view(np.uint8)[: -(-bits // 8)]


def words_of(stored: Bytes) -> Words:
    """The bytes as words, two words of zeros behind them, so that a window may begin at any bit."""
    padded = np.zeros((-(-stored.size // 8) + 2) * 8, dtype=np.uint8)
    padded[: stored.size] = stored
    return padded.view(">u8").astype(np.uint64)


def window(words: Words, position: NDArray[np.int64]) -> Words:
    """The 64 bits from each bit position, which must lie before the words of zeros at the end."""
    word = position >> 6
    inside = (position & (WORD - 1)).view(np.uint64)
    result: Words = words.take(word, mode="wrap") << inside
    word += 1
    result |= words.take(word, mode="wrap") >> (_WORD - inside)
    return result


def bit_length(values: Any) -> NDArray[np.int64]:
    """Bits of each uint64: floor(log2(v)) + 1, and 0 of 0; exact."""
    wide = np.asarray(values, dtype=np.uint64)
    high, low = wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF)
    _, of_high = np.frexp(high.astype(np.float64))
    _, of_low = np.frexp(low.astype(np.float64))
    return np.where(high > 0, of_high + 32, of_low).astype(np.int64)
