"""Frequencies add up, and states take symbols in and out one by one as the formulas say."""

import numpy as np
import pytest

from narrowgauge.priors.coding import rans


def python_encode(symbols, lanes, freqs, bits):
    """The formulas in Python's integers."""
    starts = np.cumsum(freqs) - freqs
    states, words = [1 << 16] * lanes, []
    for at in reversed(range(0, len(symbols), lanes)):
        row = []
        for lane, symbol in enumerate(symbols[at : at + lanes]):
            f, c = int(freqs[symbol]), int(starts[symbol])
            if states[lane] >= f << (32 - bits):
                row.append(states[lane] & 0xFFFF)
                states[lane] >>= 16
            states[lane] = (states[lane] // f << bits) + c + states[lane] % f
        words = row + words
    return states, words


@pytest.mark.parametrize("lanes", [1, 3, 8])
@pytest.mark.parametrize("bits", [5, 12, 15, 16])
@pytest.mark.parametrize("count", [1, 7, 8, 100])
def test_encoding_is_the_formula(lanes, bits, count):
    rng = np.random.default_rng(lanes)
    freqs = rans.frequencies(np.array([500, 100, 20, 5, 1]), bits)
    symbols = rng.choice(5, count, p=np.array([500, 100, 20, 5, 1]) / 626).astype(np.uint8)
    starts = np.cumsum(freqs) - freqs
    states, words = rans.encode(symbols, lanes, freqs.astype(np.uint32), starts.astype(np.uint32), bits)
    assert (states.tolist(), words.tolist()) == python_encode(symbols.tolist(), lanes, freqs, bits)
    table = rans.place_tables(freqs, np.arange(5, dtype=np.uint8))
    assert np.array_equal(rans.decode(states, words, count, *table, bits), symbols)
    with pytest.raises(ValueError, match="do not end"):
        rans.decode(states, np.append(words, np.uint16(1)), count, *table, bits)
    states[0] ^= 1 << 17
    with pytest.raises(ValueError, match="damaged"):
        rans.decode(states, words, count, *table, bits)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_frequencies_are_positive_and_add_up(bits):
    rng = np.random.default_rng(bits)
    for size in (1, 2, 100, 256):
        for counts in (rng.integers(1, 1000, size), np.ones(size, dtype=int), 1 + 10**9 * (np.arange(size) == 0)):
            found = rans.frequencies(counts, bits)
            assert int(found.sum()) == 1 << bits
            assert int(found.min()) >= 1


def test_frequencies_are_exact_where_they_can_be():
    assert rans.frequencies(np.array([8, 4, 2, 1, 1]), 4).tolist() == [8, 4, 2, 1, 1]


def test_more_symbols_than_frequencies_are_refused():
    with pytest.raises(ValueError, match="17 distinct ones, accepted: 16"):
        rans.frequencies(np.ones(17, dtype=int), 4)
