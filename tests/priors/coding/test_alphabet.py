"""Ranks are by frequency, whatever the type of the symbols."""

from collections import Counter

import numpy as np
import pytest

from narrowgauge.priors.coding.alphabet import alphabet_of, checked_symbols

RNG = np.random.default_rng(0)
ARRAYS = {
    "bytes": RNG.integers(0, 256, 70001).astype(np.uint8),
    "signed bytes": RNG.integers(-128, 128, 70000).astype(np.int8),
    "shorts": RNG.integers(-3000, 3000, 5000).astype(np.int16),
    "a narrow span far out": RNG.integers(2**40, 2**40 + 200, 3000),
    "a wide span": RNG.integers(-(2**63), 2**63 - 1, 3000),
    "more than 16 bits tell apart": RNG.permutation(70000) * 3,
    "all equal": np.full(9, -7, dtype=np.int32),
    "nothing": np.zeros(0, dtype=np.int16),
}


@pytest.mark.parametrize("symbols", ARRAYS.values(), ids=ARRAYS)
def test_ranks_are_by_frequency_then_by_value(symbols):
    found = alphabet_of(symbols)
    expected = sorted(Counter(symbols.tolist()).items(), key=lambda item: (-item[1], item[0]))
    assert list(zip(found.values.tolist(), found.counts.tolist(), strict=True)) == expected
    assert np.array_equal(found.spread(found.values)[found.index], symbols)


def test_entropy():
    assert alphabet_of(np.array([0, 0, 1, 2])).entropy == 1.5
    assert alphabet_of(np.array([4, 4])).entropy == 0.0
    assert alphabet_of(np.zeros(0, dtype=np.int8)).entropy == 0.0


def test_anything_but_integers_in_range_is_refused():
    with pytest.raises(TypeError, match="symbols: got an array of float64"):
        checked_symbols(np.ones(3))
    with pytest.raises(TypeError, match="bool"):
        checked_symbols(np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="9223372036854775808"):
        checked_symbols(np.array([2**63], dtype=np.uint64))


def test_symbols_may_be_a_list_or_strided_or_big_endian():
    assert checked_symbols([]).size == 0
    assert checked_symbols(np.arange(6).reshape(2, 3).T).tolist() == [0, 3, 1, 4, 2, 5]
    assert checked_symbols(np.array([1, -2], dtype=">i4")).tolist() == [1, -2]
