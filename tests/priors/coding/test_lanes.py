"""The lengths of the lanes in a record."""

from dataclasses import replace

import numpy as np
import pytest

from narrowgauge.priors.coding import coder, decode


def test_lengths_take_two_bytes_or_four():
    coded = coder("exp-golomb", order=0).encode(np.arange(256, dtype=np.uint8).repeat(40))
    assert coded.parameters["lanes"] == "<u2"
    # Lanes are cut by their average, so that a rare long one may need more.
    rare = np.concatenate((np.zeros(4_000_000, dtype=np.int64), np.random.default_rng(0).permutation(65000)))
    long = coder("exp-golomb", order=0).encode(rare)
    assert long.parameters["lanes"] == "<u4"
    assert np.array_equal(decode(long), rare)


@pytest.mark.parametrize("steps", [32, 100, 16384])
def test_lanes_of_other_sizes_are_refused(steps):
    coded = coder("huffman").encode(np.arange(2000) % 7)
    with pytest.raises(ValueError, match="steps"):
        decode(replace(coded, parameters=coded.parameters | {"steps": steps}))


def test_lanes_and_bits_agree():
    coded = coder("huffman").encode(np.arange(2000) % 7)
    with pytest.raises(ValueError, match="bits: the lanes have"):
        decode(replace(coded, bits=coded.bits + 1))
