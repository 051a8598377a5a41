"""Random words of the optimizer's stochastic roundings: a counter-based hash, cheap enough for every element and step.

Philox (formats/philox.py) costs more on a CPU than the whole update; here 16 bits an element suffice. With `mix` the
32-bit finalizer of two multiplications (arithmetic modulo 2^32, shifts without sign)

    mix(x):  x ^= x >> 16;  x *= 0x7FEB352D;  x ^= x >> 15;  x *= 0x846CA68B;  x ^= x >> 16

the word of index i is

    word(i, key) = mix(table(i mod 2^17) ^ mix(key + (i div 2^17) · 0x9E3779B9))    table(j) = mix(j + 0x9E3779B9)

and element e of a tensor takes half of word(e div 2): the low 16 bits for even e, the high ones for odd e. A draw u is
(half + 1/2) / 2^16. `table` does not depend on the key, so it is computed once; 2^17 words serve 2^18 elements.

    key(seed, stream, step) = mix(mix(mix(seed) + stream) + step)

with stream = 4 · (position of the parameter in its optimizer) + purpose, so equal (seed, step) give equal bits on every
device, for every tiling, and on every replica; a checkpoint needs the seed and the step alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.kernels._triton import constant, jit, tl

FIRST, SECOND, WEIGHT = 0, 1, 2
"""Purposes of a stream: rounding m, v, and the parameter or its residual."""
STREAMS = 4
WEYL = 0x9E3779B9
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
TABLE_BITS = 17
TABLE_WORDS = 1 << TABLE_BITS
TABLE_ELEMENTS = 2 * TABLE_WORDS
"""Elements after which `table` repeats."""
_MASK = 0xFFFFFFFF

Words = NDArray[np.uint32]


def mix(x: int) -> int:
    """The finalizer, of one 32-bit number."""
    x &= _MASK
    x ^= x >> 16
    x = x * MULTIPLIERS[0] & _MASK
    x ^= x >> 15
    x = x * MULTIPLIERS[1] & _MASK
    return x ^ x >> 16


def key_of(seed: int, stream: int, step: int) -> int:
    """The 32-bit key of a step of a stream."""
    return mix(mix(mix(seed) + stream) + step)


def block_key(key: int, block: int) -> int:
    """What the table is combined with in elements block · 2^18 and following."""
    return mix(key + block * WEYL)


def mix_array(x: Words) -> Words:
    """The finalizer, of an array."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(MULTIPLIERS[0])
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(MULTIPLIERS[1])
    return x ^ (x >> np.uint32(16))


@lru_cache(maxsize=1)
def table() -> Words:
    """The words that no key has touched, [2^17]."""
    return mix_array(np.arange(TABLE_WORDS, dtype=np.uint32) + np.uint32(WEYL))


@lru_cache(maxsize=1)
def torch_table() -> Tensor:
    """`table` as int32 on the CPU."""
    return torch.from_numpy(table().view(np.int32).copy())


def halves(count: int, key: int, offset: int = 0) -> NDArray[np.uint16]:
    """The 16 bits of elements offset … offset + count - 1 of a tensor: the definition, in numpy."""
    first, last = offset // 2, (offset + count + 1) // 2
    index = np.arange(first, last, dtype=np.int64)
    blocks = np.unique(index >> TABLE_BITS)
    keys = np.array([block_key(key, int(block)) for block in blocks], dtype=np.uint32)
    chosen = keys[np.searchsorted(blocks, index >> TABLE_BITS)]
    words = mix_array(table()[index & (TABLE_WORDS - 1)] ^ chosen)
    pairs = np.stack((words & np.uint32(0xFFFF), words >> np.uint32(16)), axis=-1).reshape(-1).astype(np.uint16)
    return pairs[offset - 2 * first :][:count]


def uniform(count: int, key: int, offset: int = 0) -> NDArray[np.float64]:
    """The draws u in (0, 1) of `halves`, float64."""
    return (halves(count, key, offset).astype(np.float64) + 0.5) / 65536.0


_FIRST = constant(MULTIPLIERS[0])
_SECOND = constant(MULTIPLIERS[1])
_WEYL = constant(WEYL)
_BITS = constant(TABLE_BITS)
_WORDS = constant(TABLE_WORDS)


@jit
def mix_words(x):
    """The finalizer, of a tensor of uint32."""
    x = x ^ (x >> 16)
    x = x * tl.full((), _FIRST, tl.uint32)
    x = x ^ (x >> 15)
    x = x * tl.full((), _SECOND, tl.uint32)
    return x ^ (x >> 16)


@jit
def random_halves(start, key, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The 16 bits (int32) of elements `start` (int64, even) and following, [ROWS, WIDTH], under `key` (uint32)."""
    first = start >> 1
    rows = tl.arange(0, ROWS)[:, None] * (WIDTH // 2)
    place = (first & (_WORDS - 1)).to(tl.int32) + rows + tl.arange(0, WIDTH // 2)[None, :]
    weyl = tl.full((), _WEYL, tl.uint32)
    block = (first >> _BITS).to(tl.uint32)
    near, far = mix_words(key + block * weyl), mix_words(key + (block + 1) * weyl)
    base = mix_words((place & (_WORDS - 1)).to(tl.uint32) + weyl)
    words = mix_words(base ^ tl.where(place < _WORDS, near, far))
    pairs = tl.join((words & 0xFFFF).to(tl.int32), (words >> 16).to(tl.int32))
    return tl.reshape(pairs, (ROWS, WIDTH))


@jit
def random_draws(start, key, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The draws u (float32) of the same elements."""
    return random_halves(start, key, ROWS, WIDTH).to(tl.float32) * (1.0 / 65536.0) + (0.5 / 65536.0)
