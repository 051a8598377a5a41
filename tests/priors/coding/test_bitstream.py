"""Bits are packed as they would be written by hand, and read from anywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.priors.coding.bitstream import bit_length, join, pack, window, words_of

CODEWORDS = st.lists(st.integers(0, 64).flatmap(lambda n: st.tuples(st.integers(0, 2**n - 1), st.just(n))), max_size=60)


def text(codewords):
    return "".join(f"{value:0{length}b}" for value, length in codewords if length)


def packed(codewords):
    values = np.array([value for value, _ in codewords], dtype=np.uint64)
    return pack(values, np.array([length for _, length in codewords], dtype=np.uint64))


def bits_of(stored, bits):
    return "".join(f"{byte:08b}" for byte in stored.tolist())[:bits]


@given(CODEWORDS)
def test_packing_is_writing_one_after_the_other(codewords):
    words, bits = packed(codewords)
    assert bits == len(text(codewords))
    assert bits_of(join([(words, bits)], bits), bits) == text(codewords)


@given(st.lists(CODEWORDS, max_size=5))
def test_strings_are_joined_without_a_gap(several):
    strings = [packed(codewords) for codewords in several]
    total = sum(bits for _, bits in strings)
    stored = join(strings, total)
    assert stored.size == -(-total // 8)
    assert bits_of(stored, total) == "".join(map(text, several))


def test_a_window_begins_at_any_bit():
    stored = np.random.default_rng(0).integers(0, 256, 24).astype(np.uint8)
    whole = bits_of(stored, 192) + "0" * 128
    found = window(words_of(stored), np.arange(192))
    assert [f"{word:064b}" for word in found.tolist()] == [whole[at : at + 64] for at in range(192)]


@pytest.mark.parametrize("near", [1, 2**31, 2**32, 2**52, 2**53, 2**54, 2**63, 2**64 - 1])
def test_bit_length_is_exact(near):
    values = [value for value in (near - 1, near, near + 1) if value < 2**64]
    assert bit_length(np.array(values, dtype=np.uint64)).tolist() == [value.bit_length() for value in values]
