"""Every coder gives back what it took, with as many bits as its formula says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.coding import CODERS, Coded, coder, decode, exp_golomb_lengths, huffman_lengths
from narrowgauge.priors.coding.alphabet import alphabet_of
from narrowgauge.priors.coding.rans import frequencies
from narrowgauge.priors.coding.rans_coder import rans_bits

CHOICES = {
    "exp-golomb": {},
    "exp-golomb 0": {"order": 0},
    "exp-golomb 3": {"order": 3},
    "exp-golomb 62": {"order": 62},
    "huffman": {},
    "rans": {},
}
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


def made(name):
    return coder(name.split()[0], **CHOICES[name])


def check(name, symbols):
    coded = made(name).encode(symbols)
    again = Coded.from_dict(coded.to_dict(), coded.payload)
    found = decode(again)
    assert found.dtype == symbols.dtype
    assert np.array_equal(found, symbols.reshape(-1))
    return coded


@pytest.mark.parametrize("name", CHOICES)
@given(
    symbols=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.integers(0, 300),
            elements=hnp.from_dtype(np.dtype(dtype), max_value=2**63 - 1 if dtype == "u8" else None),
        )
    )
)
def test_round_trip(name, symbols):
    check(name, symbols)


@pytest.mark.parametrize("name", CHOICES)
@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    count=st.integers(1, 3000),
)
def test_round_trip_of_a_few_values(name, values, seed, count):
    check(name, np.random.default_rng(seed).choice(np.array(values, dtype=np.int64), count))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize(
    "symbols",
    [
        np.zeros(0, dtype=np.int64),
        np.zeros((0, 4), dtype=np.uint8),
        np.array([-5], dtype=np.int16),
        np.full(100_000, 7, dtype=np.uint8),
        np.array([-(2**63), 2**63 - 1, 0, 1]),
        np.array([2**63 - 1], dtype=np.uint64),
        np.arange(256, dtype=np.uint8).repeat(3),
        np.random.default_rng(0).integers(0, 256, 200_001).astype(np.uint8),
        np.random.default_rng(1).integers(-3000, 3000, (37, 501)).astype(np.int16),
        (np.random.default_rng(2).standard_t(1.5, 150_000) * 3).astype(np.int32),
        np.arange(65536).astype(np.uint16),
    ],
    ids=["none", "none 2d", "one", "all equal", "extremes", "u8", "every byte", "bytes", "shorts", "heavy", "65536"],
)
def test_round_trip_of_what_is_special(name, symbols):
    check(name, symbols)


@pytest.mark.parametrize("size", [63, 64, 65, 8191, 8192, 8193, 131072, 131073, 140_001])
@pytest.mark.parametrize("name", CHOICES)
def test_round_trip_around_the_ends_of_lanes_and_parts(name, size):
    check(name, np.random.default_rng(size).geometric(0.4, size).astype(np.uint8))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_show(threads):
    before = torch.get_num_threads()
    symbols = np.random.default_rng(0).geometric(0.05, 500_000).clip(0, 255).astype(np.uint8)
    torch.set_num_threads(threads)
    try:
        payloads = [check(name, symbols).payload for name in CHOICES]
    finally:
        torch.set_num_threads(before)
    for payload, name in zip(payloads, CHOICES, strict=True):
        assert np.array_equal(payload, made(name).encode(symbols).payload)


def weights(shape, sigma, count=400_000):
    draws = GeneralizedGaussian.from_std(shape, sigma).sample(count, generator=torch.Generator().manual_seed(1))
    return draws.round().clamp(-128, 127).to(torch.int8).numpy()


@pytest.mark.parametrize(("shape", "sigma"), [(0.5, 5), (1.0, 20), (2.0, 30)])
def test_the_code_has_the_length_of_the_formula(shape, sigma):
    symbols = weights(shape, sigma)
    counts = alphabet_of(symbols).counts
    ranks = np.arange(counts.size)
    for order in (0, 1, 4):
        coded = coder("exp-golomb", order=order).encode(symbols)
        assert coded.bits == int(counts @ exp_golomb_lengths(ranks, order))
    best = coder("exp-golomb").encode(symbols)
    assert best.bits == min(int(counts @ exp_golomb_lengths(ranks, order)) for order in range(9))
    huffman = coder("huffman").encode(symbols)
    assert huffman.bits == int(counts @ huffman_lengths(counts))
    assert huffman.entropy <= huffman.bits_per_symbol < huffman.entropy + 0.1
    rans = coder("rans").encode(symbols)
    expected = rans_bits(counts, frequencies(counts, 15))
    assert expected < rans.bits < 1.006 * expected
    assert rans.bits_per_symbol < 1.01 * rans.entropy
    for coded in (best, huffman, rans):
        # Tables and the lengths of lanes included.
        assert 8 * coded.payload.nbytes < 1.01 * coded.bits + 8 * 600


def test_the_code_of_a_prefix_coder_is_its_codewords_one_after_the_other():
    symbols = np.array([5, 5, 9, 5, 7, 5, 9, 5], dtype=np.uint8)
    code = coder("exp-golomb", order=0).encode(symbols).payload[-2:]
    # ranks 0 0 1 0 2 0 1 0
    expected = "11010101110101"
    assert "".join(f"{byte:08b}" for byte in code.tolist()) == expected.ljust(16, "0")
    code = coder("huffman").encode(symbols).payload[-2:]
    expected = "00100110100"
    assert "".join(f"{byte:08b}" for byte in code.tolist()) == expected.ljust(16, "0")


def test_unknown_coders_and_options_are_named():
    with pytest.raises(ValueError, match="did you mean 'huffman'"):
        coder("hufman")
    with pytest.raises(TypeError):
        coder("huffman", order=1)
    coded = coder("rans").encode([1, 2])
    with pytest.raises(ValueError, match="coder: got 'lzma'"):
        decode(replace(coded, coder="lzma"))
    assert list(CODERS) == ["exp-golomb", "huffman", "rans"]


@pytest.mark.parametrize("name", CHOICES)
def test_damaged_records_never_crash_the_decoder(name):
    """Without the digests of a file some damage gives other symbols; what is left is a ValueError, never another."""
    symbols = weights(1.0, 5, 3000)
    coded = made(name).encode(symbols)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        payload = coded.payload.copy()
        payload[rng.integers(payload.size)] ^= 1 << int(rng.integers(8))
        try:
            found = decode(replace(coded, payload=payload))
            assert found.shape == symbols.shape
        except ValueError:
            refused += 1
    assert refused > 10
    for size in (0, 1, coded.payload.size // 2, coded.payload.size - 1):
        with pytest.raises(ValueError):  # noqa: PT011
            decode(replace(coded, payload=coded.payload[:size]))
    with pytest.raises(ValueError):  # noqa: PT011
        decode(replace(coded, payload=np.append(coded.payload, np.uint8(0))))


@pytest.mark.parametrize("name", CHOICES)
def test_every_field_of_a_record_is_checked(name):
    coded = made(name).encode(weights(1.0, 5, 3000))
    entry = coded.to_dict()
    wrong = [None, -1, 10**6, "x", [], 2.5, True]
    for field in ("coder", "dtype", "count", "distinct", "bits", "parameters"):
        for value in wrong:
            with pytest.raises(ValueError):  # noqa: PT011
                decode(Coded.from_dict(entry | {field: value}, coded.payload))
    for field in entry["parameters"]:
        for value in wrong:
            parameters = entry["parameters"] | {field: value}
            with pytest.raises(ValueError):  # noqa: PT011
                decode(Coded.from_dict(entry | {"parameters": parameters}, coded.payload))


def test_entropy_of_nothing_is_finite():
    assert all(math.isfinite(made(name).encode([]).entropy) for name in CHOICES)
