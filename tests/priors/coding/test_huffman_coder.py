"""What the Huffman coder stores beside the code, and what it refuses."""

import numpy as np
import pytest

from narrowgauge.priors.coding import Huffman, decode


def test_the_numbers_of_codewords_of_each_length_are_the_code():
    coded = Huffman().encode(np.repeat([5, -3, 8, 900], [8, 4, 2, 2]))
    assert coded.parameters["lengths"] == [0, 1, 1, 2]
    assert coded.bits == 8 + 8 + 6 + 6


def test_one_symbol_needs_no_bits():
    coded = Huffman().encode(np.full(100_000, 3))
    assert (coded.bits, coded.parameters["lengths"]) == (0, [1])
    assert (decode(coded) == 3).all()


def test_more_symbols_than_codewords_are_refused():
    with pytest.raises(ValueError, match="65537 distinct ones"):
        Huffman().encode(np.arange(65537))
