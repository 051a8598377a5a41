"""Codewords and lengths are those of BackSlash (arXiv 2504.16968), whose Table 2 lists the first ten."""

import numpy as np
import pytest

from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.coding import exp_golomb_lengths
from narrowgauge.priors.coding.bitstream import words_of
from narrowgauge.priors.coding.exp_golomb import best_order, codewords, look_up, read_number

FIRST = {
    0: "1 010 011 00100 00101 00110 00111 0001000 0001001 0001010",
    1: "10 11 0100 0101 0110 0111 001000 001001 001010 001011",
    2: "100 101 110 111 01000 01001 01010 01011 01100 01101",
    3: "1000 1001 1010 1011 1100 1101 1110 1111 010000 010001",
    4: "10000 10001 10010 10011 10100 10101 10110 10111 11000 11001",
    5: "100000 100001 100010 100011 100100 100101 100110 100111 101000 101001",
}
# shape, sigma / step → bits of EG0 to EG4 for ranks of a generalized Gaussian rounded to the nearest
RATES = {
    (0.26, 1): (1.4487, 2.2513, 3.0809, 4.0226, 5.0049),
    (0.26, 5): (2.7538, 3.1180, 3.5786, 4.2671, 5.1048),
    (0.5, 5): (4.0485, 3.9819, 4.0866, 4.4959, 5.1709),
    (1.0, 5): (5.0529, 4.6953, 4.5564, 4.7202, 5.2125),
    (1.36, 10): (6.9852, 6.3526, 5.9034, 5.7022, 5.7970),
    (2.0, 10): (7.2865, 6.6109, 6.1109, 5.8508, 5.8816),
}
EXTREMES = [0, 1, 2, 2**31 - 1, 2**32, 2**53 - 1, 2**53, 2**62, 2**63 - 2, 2**63 - 1]


@pytest.mark.parametrize("order", FIRST)
def test_the_first_codewords_are_those_of_the_paper(order):
    values, lengths = codewords(np.arange(10), order)
    assert [f"{v:0{n}b}" for v, n in zip(values.tolist(), lengths.tolist(), strict=True)] == FIRST[order].split()


@pytest.mark.parametrize("order", [0, 1, 5, 31, 62])
def test_lengths_are_the_formula_up_to_the_largest_integers(order):
    expected = [2 * ((i + 2**order).bit_length() - 1) - order + 1 for i in EXTREMES]
    assert exp_golomb_lengths(np.array(EXTREMES), order).tolist() == expected


@pytest.mark.parametrize(("shape", "sigma"), RATES)
def test_rates_of_a_generalized_gaussian(shape, sigma):
    reach = 1_500_000 if shape < 0.5 else 20_000
    edges = GeneralizedGaussian.from_std(shape, sigma).cdf(np.arange(-reach, reach + 1) - 0.5)
    share = np.sort(np.diff(edges))[::-1]
    found = [float(share @ exp_golomb_lengths(np.arange(share.size), order)) for order in range(5)]
    assert found == pytest.approx(RATES[shape, sigma], abs=3e-4)


def test_the_best_order_has_the_fewest_bits():
    rng = np.random.default_rng(0)
    for spread in (1, 5, 40, 1000):
        counts = np.sort(rng.multinomial(100_000, np.exp(-np.arange(3 * spread) / spread) / spread * 0.3))[::-1]
        numbers = np.arange(counts.size)
        bits = [int(counts @ exp_golomb_lengths(numbers, order)) for order in range(16)]
        assert best_order(numbers, counts) == int(np.argmin(bits))
    assert best_order(np.array([2**63 - 1]), np.array([1])) == 62
    assert best_order(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)) == 0


@pytest.mark.parametrize("order", [0, 3, 9])
def test_the_table_knows_every_codeword_that_fits(order):
    numbers, lengths = look_up(order, 10)
    for bits in range(1 << 10):
        zeros = 10 - bits.bit_length()
        if 2 * zeros + 1 + order > 10:
            assert lengths[bits] == 0
        else:
            assert lengths[bits] == 2 * zeros + 1 + order
            assert numbers[bits] == int(f"{bits:010b}"[zeros : 2 * zeros + 1 + order], 2) - 2**order


@pytest.mark.parametrize("order", [0, 7, 62])
def test_long_codewords_are_read_anywhere(order):
    for number in EXTREMES:
        length = int(exp_golomb_lengths(np.array([number]), order)[0])
        digits = f"{number + 2**order:b}"
        for before in (0, 1, 63):
            text = "1" * before + digits.rjust(length, "0")
            text = text.ljust(-(-len(text) // 8) * 8, "1")
            stored = np.frombuffer(int(text, 2).to_bytes(len(text) // 8), dtype=np.uint8)
            found, taken = read_number(words_of(stored), np.array([before]), order)
            assert (found.tolist(), taken.tolist()) == ([number], [length])


def test_bits_that_are_no_codeword_are_refused():
    with pytest.raises(ValueError, match="damaged"):
        read_number(words_of(np.zeros(64, dtype=np.uint8)), np.array([3]), 0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="order: got 63"):
        exp_golomb_lengths([1], 63)
    with pytest.raises(TypeError, match="order: got float"):
        exp_golomb_lengths([1], 1.0)
    with pytest.raises(ValueError, match="numbers: got -1"):
        exp_golomb_lengths([-1], 0)
    with pytest.raises(TypeError, match="numbers"):
        exp_golomb_lengths([0.5], 0)
