"""Canonical Huffman codes whose words have at most so many bits, by package-merge (Larmore and Hirschberg, 1990).

Codewords ascend with (length, rank), so that the numbers of codewords of each length are all that a decoder needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding.alphabet import IntArray
from narrowgauge.priors.coding.bitstream import Words
from narrowgauge.priors.coding.prefix import WIDTH


def huffman_lengths(counts: Any, limit: int = WIDTH) -> IntArray:
    """Bits of the optimal codewords of at most `limit` bits for symbols of these frequencies, in their order.

    One symbol alone has a codeword of no bits. counts: positive integers. ValueError where 2^limit is fewer than the
    symbols.
    """
    weights = np.asarray(counts, dtype=np.int64)
    if weights.size and int(weights.min()) < 1:
        raise ValueError(f"counts: got {weights.min()}, accepted: positive integers")
    if weights.size > 1 << limit:
        raise ValueError(f"limit: {weights.size} symbols have no code of at most {limit} bits")
    if weights.size < 2:
        return np.zeros(weights.size, dtype=np.int64)
    # Of equally frequent symbols the first has the shorter codeword.
    order = weights.size - 1 - np.argsort(weights[::-1], kind="stable")
    leaves = weights[order]
    rounds = [np.ones(leaves.size, dtype=np.bool_)]
    packages = leaves
    for _ in range(limit - 1):
        packages = packages[: packages.size // 2 * 2].reshape(-1, 2).sum(axis=1)
        both = np.concatenate((leaves, packages))
        place = np.argsort(both, kind="stable")
        rounds.append(place < leaves.size)
        packages = both[place]
    # Of the last round the first 2n - 2 are taken, and of each round before what its packages consist of.
    lengths = np.zeros(leaves.size, dtype=np.int64)
    taken = 2 * leaves.size - 2
    for is_leaf in reversed(rounds):
        own = int(is_leaf[:taken].sum())
        lengths[:own] += 1
        taken = 2 * (taken - own)
    result = np.empty_like(lengths)
    result[order] = lengths
    return result


def canonical_codes(lengths: IntArray) -> Words:
    """The codewords, as numbers, of ascending lengths: each is the one before plus one, filled up with zeros."""
    width = int(lengths.max(initial=0))
    steps = np.int64(1) << (width - lengths)
    starts = np.cumsum(steps) - steps
    return (starts >> (width - lengths)).astype(np.uint64)


def look_up(per_length: NDArray[np.int64], values: NDArray[Any]) -> tuple[int, NDArray[Any], Words]:
    """(width, value, length) that the next `width` bits begin with; per_length[l]: codewords of l bits; values by rank.

    ValueError where these are no complete code.
    """
    lengths = np.repeat(np.arange(per_length.size), per_length)
    width = int(lengths.max(initial=0))
    steps = np.int64(1) << (width - lengths)
    if lengths.size != values.size or int(steps.sum()) != 1 << width:
        raise ValueError("the lengths of the codewords are those of no complete code")
    return width, np.repeat(values, steps), np.repeat(lengths, steps).astype(np.uint64)
