"""Code lengths are optimal, also under a limit, and the codes are prefix codes."""

import heapq
import itertools

import numpy as np
import pytest

from narrowgauge.priors.coding import huffman_lengths
from narrowgauge.priors.coding.huffman import canonical_codes, look_up

FIBONACCI = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]


def unlimited_cost(counts):
    """Bits of Huffman's own construction: the sum of all inner nodes."""
    heap = list(counts)
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        cost += both
        heapq.heappush(heap, both)
    return cost


def best_cost(counts, limit):
    """The cheapest lengths of all that fulfil Kraft's inequality; tried one by one."""
    choices = itertools.product(range(1, limit + 1), repeat=len(counts))
    return min(
        sum(c * n for c, n in zip(counts, lengths, strict=True))
        for lengths in choices
        if sum(2 ** (limit - n) for n in lengths) <= 2**limit
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_limit_gives_the_cost_of_huffman(seed):
    counts = np.random.default_rng(seed).geometric(0.01, 200)
    lengths = huffman_lengths(counts, 16)
    assert int(counts @ lengths) == unlimited_cost(counts.tolist())
    assert int((2 ** (16 - lengths)).sum()) == 2**16


@pytest.mark.parametrize("counts", [[1, 2, 4, 8, 16], [1, 1, 1, 1, 50], [7, 7, 7], FIBONACCI[:5]])
@pytest.mark.parametrize("limit", [3, 4])
def test_a_narrow_limit_gives_the_best_there_is(counts, limit):
    lengths = huffman_lengths(counts, limit)
    assert int(lengths.max()) <= limit
    assert int(np.array(counts) @ lengths) == best_cost(counts, limit)


def test_lengths_of_descending_counts_ascend():
    counts = np.sort(np.random.default_rng(1).integers(1, 20, 500))[::-1]
    assert (np.diff(huffman_lengths(counts)) >= 0).all()


def test_small_alphabets():
    assert huffman_lengths([]).tolist() == []
    assert huffman_lengths([9]).tolist() == [0]
    assert huffman_lengths([1, 9]).tolist() == [1, 1]
    assert huffman_lengths(np.ones(65536)).tolist() == [16] * 65536


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="5 symbols have no code of at most 2 bits"):
        huffman_lengths([1] * 5, 2)
    with pytest.raises(ValueError, match="counts: got 0"):
        huffman_lengths([1, 0])


def test_the_table_decodes_every_codeword():
    lengths = huffman_lengths(FIBONACCI[::-1], 9)
    codes = canonical_codes(lengths)
    width, symbols, taken = look_up(np.bincount(lengths), np.arange(12))
    assert width == 9
    for rank, (code, length) in enumerate(zip(codes.tolist(), lengths.tolist(), strict=True)):
        own = slice(code << (9 - length), (code + 1) << (9 - length))
        assert set(symbols[own].tolist()) == {rank}
        assert set(taken[own].tolist()) == {length}


@pytest.mark.parametrize("per_length", [[0, 1], [0, 3], [0, 1, 3], [2]])
def test_lengths_of_no_code_are_refused(per_length):
    with pytest.raises(ValueError, match="no complete code"):
        look_up(np.array(per_length), np.arange(sum(per_length)))
