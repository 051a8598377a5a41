"""Philox 4x32-10 against its published known answers, and how words are dealt to elements."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from narrowgauge.formats.philox import philox, random_words, rounding_bits
from narrowgauge.formats.rounding import RANDOM_BITS

KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def words(values: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    out = philox(words(counter), key[0] | key[1] << 32)  # type: ignore[arg-type]
    assert [int(word[0]) for word in out] == answer


def test_element_takes_word_i_mod_4_of_block_i_div_4() -> None:
    seed, offset = 0x299F31D0_A4093822, 0x03707344_13198A2E
    drawn = random_words(11, seed, offset)
    for i in range(11):
        block = philox(words([i // 4, 0, offset & 0xFFFFFFFF, offset >> 32]), seed)  # type: ignore[arg-type]
        assert drawn[i] == block[i % 4][0]


def test_first_words_of_the_zero_stream_are_the_known_answer() -> None:
    assert random_words(4, 0).tolist() == KNOWN_ANSWERS[0][2]


def test_blocks_past_32_bits_reach_the_second_counter_word() -> None:
    low = philox(words([5, 0, 0, 0]), 7)  # type: ignore[arg-type]
    high = philox(words([5, 1, 0, 0]), 7)  # type: ignore[arg-type]
    assert low[0][0] != high[0][0]


def test_a_prefix_does_not_depend_on_the_length() -> None:
    long = random_words(1000, 3, 9)
    for count in (0, 1, 2, 3, 4, 5, 999):
        assert np.array_equal(random_words(count, 3, 9), long[:count])


def test_seed_and_offset_name_different_streams() -> None:
    streams = [random_words(64, seed, offset) for seed in (0, 1, 2**32, 2**63) for offset in (0, 1, 2**32)]
    assert len({stream.tobytes() for stream in streams}) == len(streams)


def test_rounding_bits_are_the_high_bits_in_row_major_order() -> None:
    bits = rounding_bits((3, 5, 7), seed=11, offset=2)
    assert bits.shape == (3, 5, 7)
    assert np.array_equal(bits.reshape(-1), random_words(105, 11, 2) >> (32 - RANDOM_BITS))
    assert int(bits.max()) < 2**RANDOM_BITS
    assert rounding_bits((), 0).shape == ()
    assert rounding_bits((0, 4), 0).shape == (0, 4)


def test_each_rounding_bit_is_fair_and_neighbours_are_unrelated() -> None:
    n = 200_000
    bits = rounding_bits((n,), seed=1)
    ones = ((bits[:, None] >> np.arange(RANDOM_BITS)) & 1).sum(axis=0)
    assert (np.abs(ones - n / 2) < 5 * np.sqrt(n) / 2).all()
    centred = bits / 2**RANDOM_BITS - 0.5
    for lag in (1, 2, 3, 4, 8):
        assert abs((centred[lag:] * centred[:-lag]).mean() * 12) < 5 / np.sqrt(n)
    cells = np.bincount(bits >> (RANDOM_BITS - 8), minlength=256)
    assert ((cells - n / 256) ** 2 / (n / 256)).sum() < 255 + 5 * np.sqrt(2 * 255)


def test_streams_pass_a_chi_squared_test() -> None:
    # 16 streams (offsets), each cut into 16 fields by the bits that rounding looks at first, and by those it looks at
    # last: 15 degrees of freedom, and a limit that a right generator passes in all 32 tests with probability 0.999.
    limit = scipy.stats.chi2.ppf(1 - 1e-3 / 32, 15)
    for offset in range(16):
        bits = rounding_bits((1 << 16,), seed=2024, offset=offset)
        for field in (bits >> 20, bits & 15):
            counts = np.bincount(field, minlength=16)
            expected = bits.size / 16
            assert (np.square(counts - expected) / expected).sum() < limit, offset


def test_streams_do_not_correlate() -> None:
    words = np.stack([rounding_bits((1 << 14,), seed=7, offset=offset) for offset in range(8)]).astype(np.float64)
    correlation = np.corrcoef(words)
    off_diagonal = correlation[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(words.shape[1])
