"""Philox 4x32-10 (Salmon et al., SC 2011), the random bits of every stochastic rounding in the package.

The word of element i of a tensor is word `i mod 4` of the block with key = seed (64 bit) and counter =
(i div 4 as 64 bit, offset as 64 bit). `offset` names the stream (a step, a tensor), so equal (seed, offset)
give equal bits on every device and for every tiling.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.rounding import RANDOM_BITS

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_MASK = np.uint64(0xFFFFFFFF)

Words = NDArray[np.uint64]


def philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, Words, Words, Words]:
    """Four 32-bit words (held in uint64 arrays) for each counter."""
    key0, key1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        p0 = c0 * np.uint64(MULTIPLIERS[0])
        p1 = c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0),
            p1 & _MASK,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1),
            p0 & _MASK,
        )
        key0 = (key0 + WEYL[0]) & 0xFFFFFFFF
        key1 = (key1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_words(count: int, seed: int, offset: int = 0) -> NDArray[np.uint32]:
    """The 32-bit words of elements 0 … count - 1."""
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    stream = np.full_like(blocks, offset & 0xFFFFFFFF), np.full_like(blocks, (offset >> 32) & 0xFFFFFFFF)
    words = philox((blocks & _MASK, blocks >> np.uint64(32), *stream), seed)
    return np.stack(words, axis=-1).reshape(-1)[:count].astype(np.uint32)


def rounding_bits(shape: tuple[int, ...], seed: int, offset: int = 0) -> NDArray[np.uint32]:
    """`RANDOM_BITS` random bits for each element of a row-major array: the high bits of its word."""
    count = int(np.prod(shape, dtype=np.int64))
    return (random_words(count, seed, offset) >> np.uint32(32 - RANDOM_BITS)).reshape(shape)
