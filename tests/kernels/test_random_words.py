"""The random words of stochastic rounding: the definition bit by bit, and that they look random where they are used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narrowgauge.kernels.random_words import (
    STREAMS,
    TABLE_ELEMENTS,
    TABLE_WORDS,
    block_key,
    halves,
    key_of,
    mix,
    mix_array,
    table,
    torch_table,
    uniform,
)

KEY = key_of(seed=12, stream=5, step=3)


def word(index: int, key: int) -> int:
    """The definition, number by number."""
    return mix(mix(index % TABLE_WORDS + 0x9E3779B9) ^ mix(key + index // TABLE_WORDS * 0x9E3779B9))


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """In standard deviations of that of independent numbers."""
    return float(np.corrcoef(a, b)[0, 1] * np.sqrt(a.size))


def steps(count: int, number: int, stream: int = 0) -> NDArray[np.float64]:
    return np.stack([uniform(count, key_of(7, stream, step)) for step in range(1, number + 1)])


def test_finalizer_is_the_published_one() -> None:
    # Values of the 32-bit finalizer lowbias32 (Wellons, hash-prospector), worked out from its five lines.
    x = 1
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ (x >> shift)) * factor % 2**32
    assert mix(1) == x
    assert mix(0) == 0
    assert mix(1 + 2**32) == mix(1)


def test_finalizer_of_arrays_is_that_of_numbers() -> None:
    x = np.asarray([0, 1, 2, 12345, 2**31, 2**32 - 1], dtype=np.uint32)
    assert mix_array(x).tolist() == [mix(int(value)) for value in x]


def test_finalizer_is_a_permutation_of_the_low_words() -> None:
    assert np.unique(mix_array(np.arange(1 << 18, dtype=np.uint32))).size == 1 << 18


@pytest.mark.parametrize("offset", [0, 1, 2, 7, TABLE_ELEMENTS - 4, TABLE_ELEMENTS - 3, 5 * TABLE_ELEMENTS + 2])
def test_elements_take_the_halves_of_their_words(offset: int) -> None:
    expected = [word(e // 2, KEY) >> (16 if e % 2 else 0) & 0xFFFF for e in range(offset, offset + 9)]
    assert halves(9, KEY, offset).tolist() == expected


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_as_many_halves_as_asked_for(count: int) -> None:
    assert halves(count, KEY, 3).shape == (count,)
    assert halves(count, KEY, 3).tolist() == halves(10, KEY, 3)[:count].tolist()


def test_a_part_has_the_halves_of_the_whole() -> None:
    whole = halves(TABLE_ELEMENTS + 1000, KEY)
    for start, count in ((0, 500), (501, 77), (TABLE_ELEMENTS - 100, 1000)):
        assert np.array_equal(halves(count, KEY, start), whole[start : start + count])


def test_table_of_torch_is_the_table() -> None:
    assert torch_table().dtype is torch.int32
    assert np.array_equal(torch_table().numpy().view(np.uint32), table())
    assert table()[5] == mix(5 + 0x9E3779B9)


def test_block_key_of_the_first_block_is_the_mixed_key() -> None:
    assert block_key(KEY, 0) == mix(KEY)
    assert len({block_key(KEY, block) for block in range(1000)}) == 1000


def test_draws_lie_inside_the_unit_interval_in_the_middle_of_their_cells() -> None:
    u = uniform(1 << 16, KEY)
    assert 0 < u.min() < u.max() < 1
    assert np.array_equal(u * 65536 % 1, np.full(u.size, 0.5))


def test_keys_differ_between_seeds_streams_and_steps() -> None:
    keys = {key_of(seed, stream, step) for seed in range(8) for stream in range(8 * STREAMS) for step in range(64)}
    # Of 16384 keys 0.03 pairs are equal by chance.
    assert len(keys) == 8 * 8 * STREAMS * 64


def test_sixteen_bits_are_uniform() -> None:
    counts = np.bincount(halves(1 << 22, KEY), minlength=1 << 16)
    chi_square = float(np.sum((counts - 64.0) ** 2) / 64.0)
    assert abs(chi_square - 65535) < 5 * np.sqrt(2 * 65535)


@pytest.mark.parametrize("bit", range(16))
def test_every_bit_is_fair(bit: int) -> None:
    bits = halves(1 << 20, KEY) >> bit & 1
    assert abs(float(bits.mean()) - 0.5) < 5 * 0.5 / 1024


def test_neighbours_are_independent() -> None:
    u = uniform(1 << 20, KEY)
    for distance in (1, 2, 3, 128, 1024, 1 << 17):
        assert abs(correlation(u[:-distance], u[distance:])) < 4.5


def test_steps_are_independent_in_every_element() -> None:
    u = steps(1 << 12, 257) - 0.5
    for lag in (1, 2, 3, 64):
        products = (u[:-lag] * u[lag:]).mean(axis=0) * 12 * np.sqrt(257 - lag)
        assert abs(float(products.mean())) < 4.5 / 64
        assert float(products.std()) == pytest.approx(1.0, abs=0.06)
    # The same elements are never favoured: the mean over steps scatters as that of independent draws.
    means = u.mean(axis=0) * np.sqrt(12 * 257)
    assert float(means.std()) == pytest.approx(1.0, abs=0.06)
    assert float(np.abs(means).max()) < 5.0


def test_streams_and_blocks_of_the_table_are_independent() -> None:
    first, second = uniform(1 << 18, key_of(7, 0, 1)), uniform(1 << 18, key_of(7, 1, 1))
    assert abs(correlation(first, second)) < 4.5
    later = uniform(1 << 18, key_of(7, 0, 1), offset=TABLE_ELEMENTS)
    assert abs(correlation(first, later)) < 4.5


def test_pairs_of_elements_are_not_coupled_by_the_shared_table() -> None:
    # Words of two keys differ by one exclusive or before the finalizer: sums over steps must not line up.
    u = steps(1 << 10, 1 << 10) - 0.5
    gram = (u.T @ u) * 12 / (1 << 10)
    np.fill_diagonal(gram, 0.0)
    scaled = gram * np.sqrt(1 << 10)
    assert float(scaled.std()) == pytest.approx(1.0, abs=0.02)
    assert float(np.abs(scaled).max()) < 6.5
