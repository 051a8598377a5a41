"""The coder's maps of symbols to numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.priors.coding import ExpGolomb, decode, exp_golomb_lengths, to_unsigned

LARGE = st.integers(0, 62).flatmap(lambda n: st.integers(0, 2 ** (n + 1) - 1))


@given(st.lists(LARGE, max_size=200), st.sampled_from([None, 0, 1, 31, 62]))
def test_numbers_are_coded_as_they_are(numbers, order):
    symbols = np.array(numbers, dtype=np.int64)
    coded = ExpGolomb(order, mapping="none").encode(symbols)
    assert coded.bits == int(exp_golomb_lengths(symbols, coded.parameters["order"]).sum())
    assert np.array_equal(decode(coded), symbols)


@given(st.lists(LARGE.map(lambda n: (n + 1) // 2 if n % 2 else -(n // 2)), max_size=200))
def test_signed_numbers(numbers):
    symbols = np.array(numbers, dtype=np.int64)
    coded = ExpGolomb(0, mapping="signed").encode(symbols)
    assert coded.bits == int(exp_golomb_lengths(to_unsigned(symbols), 0).sum())
    assert np.array_equal(decode(coded), symbols)


def test_only_ranks_need_a_table():
    symbols = np.arange(-100, 100).repeat(20).astype(np.int16)
    assert "values" in ExpGolomb(3).encode(symbols).parameters
    assert "values" not in ExpGolomb(3, mapping="signed").encode(symbols).parameters


def test_numbers_beyond_the_type_of_the_symbols_are_refused():
    coded = ExpGolomb(0, mapping="none").encode(np.full(100, 200, dtype=np.uint8))
    object.__setattr__(coded, "dtype", "|i1")
    with pytest.raises(ValueError, match="no symbol's"):
        decode(coded)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"mapping: got 'ranks'.*did you mean 'rank'"):
        ExpGolomb(mapping="ranks")
    with pytest.raises(ValueError, match="symbols: got -1"):
        ExpGolomb(mapping="none").encode([-1])
    with pytest.raises(ValueError, match="order: got -1"):
        ExpGolomb(-1)
