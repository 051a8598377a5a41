"""Exponential-Golomb codes of order k (BackSlash, arXiv 2504.16968, section 3 and Algorithm 2).

    m = i + 2^k,  L = bits of m:   L - 1 - k zeros, then the L bits of m      length = 2·floor(log2(i + 2^k)) - k + 1

of an integer i >= 0. To decode: count z zeros, read the z + 1 + k bits of m, i = m - 2^k. No table of codewords is
kept, whatever the symbols; what a model's weights are coded by are ranks, 0 for the most frequent value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding.alphabet import IntArray
from narrowgauge.priors.coding.bitstream import WORD, Words, bit_length, window
from narrowgauge.priors.coding.prefix import Chunks

MAX_ORDER = 62
LARGEST = (1 << 63) - 1


def check_order(order: Any) -> int:
    """TypeError or ValueError for what is no order."""
    if isinstance(order, bool) or not isinstance(order, int | np.integer):
        raise TypeError(f"order: got {type(order).__name__}, accepted: an integer, or None for the best one")
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(f"order: got {order}, accepted: 0 to {MAX_ORDER}")
    return int(order)


def exp_golomb_lengths(numbers: Any, order: int) -> IntArray:
    """Bits of the codeword of each of these integers in [0, 2^63 - 1], in the shape of `numbers`.

    TypeError for anything but integers, ValueError for negative ones and for orders outside 0 … 62.
    """
    k = check_order(order)
    array = np.asarray(numbers)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"numbers: got an array of {array.dtype}, accepted: integers")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= LARGEST:
        raise ValueError(f"numbers: got {array.min()} to {array.max()}, accepted: 0 to 2^63 - 1")
    return 2 * bit_length(array.astype(np.uint64) + np.uint64(1 << k)) - k - 1


def best_order(numbers: IntArray, counts: IntArray) -> int:
    """The order with the fewest bits, the smallest of equals; counts: how often each number occurs."""
    most = int(numbers.max(initial=0)).bit_length()
    # Beyond the longest number every order more costs one bit more.
    bits = [float(np.dot(exp_golomb_lengths(numbers, k).astype(np.float64), counts)) for k in range(min(most, 62) + 1)]
    return int(np.argmin(bits))


def codewords(numbers: NDArray[Any], order: int) -> tuple[Words, IntArray]:
    """(value, length) of each codeword; its leading zeros are not in the value, which fits 64 bits always."""
    return numbers.astype(np.uint64) + np.uint64(1 << order), exp_golomb_lengths(numbers, order)


def number_chunks(numbers: NDArray[np.uint64], order: int, longest: int) -> Chunks:
    """Chunks (`prefix.Chunks`) of numbers without a table; longest: bits of the longest codeword."""

    def chunks(start: int, stop: int) -> tuple[Words, Words]:
        values, signed = codewords(numbers[start:stop], order)
        lengths = signed.astype(np.uint64)
        if longest <= WORD:
            return values, lengths
        digits = bit_length(values).astype(np.uint64)
        both = np.zeros((2, values.size, 2), dtype=np.uint64)
        both[0, :, 1], both[1, :, 0], both[1, :, 1] = values, lengths - digits, digits
        return both[0].reshape(-1), both[1].reshape(-1)

    return chunks


def look_up(order: int, width: int) -> tuple[IntArray, Words]:
    """(number, length) that the next `width` bits begin with, all 2^width; length 0: the codeword is longer."""
    bits = np.arange(1 << width, dtype=np.uint64)
    zeros = width - bit_length(bits)
    length = 2 * zeros + 1 + order
    fits = length <= width
    left = np.where(fits, width - length, 0).astype(np.uint64)
    numbers = (bits >> left).astype(np.int64) - (1 << order)
    return np.where(fits, numbers, 0), np.where(fits, length, 0).astype(np.uint64)


def read_number(words: Words, position: IntArray, order: int) -> tuple[NDArray[np.uint64], IntArray]:
    """(number, length) of the codewords that begin at these bits. ValueError for what no encoder wrote."""
    zeros = WORD - bit_length(window(words, position))
    digits = zeros + 1 + order
    if int(digits.max(initial=0)) > WORD:
        raise ValueError("the code is damaged: a codeword of more than 64 digits")
    start = np.minimum(position + zeros, (words.size - 2) * WORD)
    value = window(words, start) >> (WORD - digits).astype(np.uint64)
    number = value - np.uint64(1 << order)
    if number.size and int(number.max()) > LARGEST:
        raise ValueError("the code is damaged: a number above 2^63 - 1")
    return number, zeros + digits
