"""Philox in numpy buffers against the definition, word by word."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from narrowgauge.formats.philox import philox, rounding_bits
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels import _philox_numpy
from narrowgauge.kernels._philox_numpy import _first_rounds, _keys, _other_rounds, fill_rounding_bits

STREAMS = [(0, 0), (1, 2), (12345678901234, 7 << 33 | 5), (2**64 - 1, 2**64 - 1), (2**63, 1 << 32)]


@pytest.mark.parametrize(("seed", "offset"), STREAMS)
@pytest.mark.parametrize("blocks", [0, 1, 63, 64, 65, 200])
def test_bits_are_those_of_the_definition_in_any_number_of_parts(
    seed: int, offset: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_philox_numpy, "CACHED_BLOCKS", 64)
    out = np.full((blocks, 2), 0xDEAD, np.uint64)
    fill_rounding_bits(out, seed, offset)
    np.testing.assert_array_equal(out.reshape(-1).view(np.uint32), rounding_bits((4 * blocks,), seed, offset))


@pytest.mark.parametrize("start", [0, 96, (1 << 32) - 32, 5 << 32 | 64])
def test_counters_beyond_32_bits_carry_into_the_upper_word(start: int) -> None:
    (seed, offset), count = STREAMS[2], 32
    keys, memory, out = _keys(seed), np.empty((2, 2, count), np.uint64), np.empty((count, 2), np.uint64)
    steps = np.arange(count, dtype=np.uint64) * _philox_numpy._FACTORS[0]
    _first_rounds(start, offset, keys, steps, *memory)
    _other_rounds(keys, *memory, out)
    blocks, half = np.arange(start, start + count, dtype=np.uint64), np.uint64(32)
    stream = [np.full_like(blocks, word) for word in (offset & 0xFFFFFFFF, offset >> 32)]
    words = philox((blocks & np.uint64(0xFFFFFFFF), blocks >> half, *stream), seed)
    np.testing.assert_array_equal(out.view(np.uint32), np.stack(words, axis=-1).astype(np.uint32))


def expected_bits(first: int, count: int, seed: int, offset: int) -> NDArray[np.uint32]:
    blocks, half = np.arange(first, first + count, dtype=np.uint64), np.uint64(32)
    stream = [np.full_like(blocks, word) for word in (offset & 0xFFFFFFFF, offset >> 32)]
    words = philox((blocks & np.uint64(0xFFFFFFFF), blocks >> half, *stream), seed)
    return (np.stack(words, axis=-1) >> np.uint64(32 - RANDOM_BITS)).astype(np.uint32)


@pytest.mark.parametrize("first", [1, 100, (1 << 32) - 70, (1 << 33) - 1])
def test_bits_may_start_at_any_block(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_philox_numpy, "CACHED_BLOCKS", 64)
    out = np.empty((150, 2), np.uint64)
    fill_rounding_bits(out, *STREAMS[2], first)
    np.testing.assert_array_equal(out.view(np.uint32), expected_bits(first, 150, *STREAMS[2]))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_that_share_the_work_draw_the_same(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_philox_numpy, "SHARED_BLOCKS", 64)
    out = np.empty((301, 2), np.uint64)
    fill_rounding_bits(out, *STREAMS[2], 7, threads)
    np.testing.assert_array_equal(out.view(np.uint32), expected_bits(7, 301, *STREAMS[2]))
