"""Philox 4x32-10 on a CPU, by numpy in buffers that stay in the caches: the words of `formats/philox.py`.

A 32-bit word lies in the lower half of a 64-bit number, and a product P = c · M fills both halves. A round is

    c0 = hi(P1) ^ lo(P1 of the round before) ^ key0        c2 = hi(P0) ^ lo(P0 of the round before) ^ key1

so the halves c1, c3 are never taken apart: with the products as 32-bit numbers, one exclusive-or of the new ones with
the old ones, one place further, brings hi and lo together. Four passes over the memory are a round of both words. The
first two rounds start from words that all blocks share.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.philox import MULTIPLIERS, ROUNDS, WEYL
from narrowgauge.formats.rounding import RANDOM_BITS

Words = NDArray[np.uint64]

CACHED_BLOCKS = 1 << 15
"""Blocks of four words that a single thread draws at a time."""
SHARED_BLOCKS = 1 << 16
"""The same where threads share the work: calls so long that passing on the interpreter's lock does not count."""
_MASK = 0xFFFFFFFF
_LOW, _HALF = np.uint64(_MASK), np.uint64(32)
_M0, _M1 = MULTIPLIERS
_FACTORS = np.array([[_M0], [_M1]], np.uint64)
_TURNED = np.ascontiguousarray(_FACTORS[::-1])


def fill_rounding_bits(out: Words, seed: int, offset: int, first: int = 0, threads: int = 1) -> None:
    """The upper RANDOM_BITS of the words of blocks first to first + n - 1 into `out` [n, 2], two words in each number,
    the first in the lower half. threads: how many may share the work."""
    parts = min(threads, len(out) // SHARED_BLOCKS)
    if parts < 2:
        _fill(out, seed, offset, first, CACHED_BLOCKS)
        return
    size = -(-len(out) // parts)
    with ThreadPoolExecutor(parts) as pool:
        starts = range(0, len(out), size)
        shares = [out[start : start + size] for start in starts]
        list(pool.map(lambda share, start: _fill(share, seed, offset, first + start, SHARED_BLOCKS), shares, starts))


def _fill(out: Words, seed: int, offset: int, first: int, at_once: int) -> None:
    """`fill_rounding_bits` by a single thread, so many blocks at once."""
    size = min(len(out), at_once)
    keys = _keys(seed)
    steps = np.arange(size, dtype=np.uint64)
    steps *= np.uint64(_M0)
    memory = np.empty((2, 2, size), np.uint64)
    start = 0
    while start < len(out):
        block = first + start
        # The upper half of the counter is the same for all blocks drawn at once.
        part = out[start : start + min(size, (_MASK + 1) - (block & _MASK))]
        fresh, old = memory[:, :, : len(part)]
        _first_rounds(block, offset, keys, steps[: len(part)], fresh, old)
        _other_rounds(keys, fresh, old, part)
        words = part.reshape(-1).view(np.uint32)
        np.right_shift(words, np.uint32(32 - RANDOM_BITS), out=words)
        start += len(part)


def _keys(seed: int) -> Words:
    """Both keys of every round, [ROUNDS, 2, 1]."""
    first = np.array([seed & _MASK, (seed >> 32) & _MASK], np.uint64)
    steps = np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array(WEYL, np.uint64)
    keys: Words = ((first + steps) & _LOW)[:, :, None]
    return keys


def _halves(product: int) -> tuple[int, int]:
    return product >> 32, product & _MASK


def _first_rounds(start: int, offset: int, keys: Words, steps: Words, fresh: Words, old: Words) -> None:
    """Three rounds of the blocks from `start`, steps: i · M0. Leaves (c2, c0) in `fresh`, (P1, P0) in `old`."""
    (a, b), (x, y) = fresh, old
    (key0, key1), (next0, next1), (last0, last1) = keys[:3, :, 0].tolist()
    low, high = start & _MASK, start >> 32
    # Round 1: P1 is the same in all blocks, and so are c0 and c1.
    np.add(steps, np.uint64(low * _M0), out=x)
    p1_high, c1 = _halves((offset & _MASK) * _M1)
    c0 = p1_high ^ high ^ key0
    np.right_shift(x, _HALF, out=b)
    np.bitwise_xor(b, np.uint64(((offset >> 32) & _MASK) ^ key1), out=b)
    # Round 2: P0 is; c2 = b, c3 = lo(x).
    p0_high, c3 = _halves(c0 * _M0)
    np.multiply(b, np.uint64(_M1), out=b)
    np.right_shift(b, _HALF, out=y)
    np.bitwise_xor(y, np.uint64(c1 ^ next0), out=y)
    np.bitwise_and(x, _LOW, out=x)
    np.bitwise_xor(x, np.uint64(p0_high ^ next1), out=x)
    # Round 3: c0 = y, c1 = lo(b), c2 = x, and c3 of all blocks.
    np.multiply(old, _TURNED, out=old)
    np.right_shift(y, _HALF, out=a)
    np.bitwise_xor(a, np.uint64(c3 ^ last1), out=a)
    _join(x.view(np.uint32), b.view(np.uint32))
    np.bitwise_and(b, _LOW, out=b)
    np.bitwise_xor(b, np.uint64(last0), out=b)


def _join(new: NDArray[np.uint32], old: NDArray[np.uint32]) -> None:
    """hi(new) ^ lo(old) into the lower halves of `old`, along the last axis; the upper ones are then anything."""
    lower = old[..., :-1]
    np.bitwise_xor(new[..., 1:], lower, out=lower)


def _other_rounds(keys: Words, fresh: Words, old: Words, out: Words) -> None:
    """From `_first_rounds` to the four words of every block, in `out` as `fill_rounding_bits` has them."""
    # The memory of the old products takes the new words: rows change places every other round.
    fresh_turned = old_turned = True
    for key in keys[3:]:
        np.multiply(fresh, _TURNED if fresh_turned else _FACTORS, out=fresh)
        new = fresh.view(np.uint32)
        _join(new if fresh_turned == old_turned else new[::-1], old.view(np.uint32))
        np.bitwise_and(old, _LOW, out=old)
        np.bitwise_xor(old, key if old_turned else key[::-1], out=old)
        fresh_turned, old_turned = not old_turned, fresh_turned
        fresh, old = old, fresh
    # fresh = (c2, c0), old = (P0, P1); c1 and c3 are lower halves.
    np.left_shift(old, _HALF, out=old)
    np.bitwise_or(fresh[1], old[1], out=out[:, 0])
    np.bitwise_or(fresh[0], old[0], out=out[:, 1])
