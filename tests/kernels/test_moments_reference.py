"""The definition of stored moments: vectors from the literature, and what every codec promises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from narrowgauge.kernels._moments_formulas import (
    log_codes,
    log_numbers,
    log_probability,
    log_values,
    softsign_codes,
    softsign_values,
)
from narrowgauge.kernels._moments_reference import (
    Stored,
    decode_pair,
    decode_reference,
    encode_pair,
    encode_reference,
    unpack_reference,
    whitened,
)
from narrowgauge.kernels.codecs import CODECS, first_moment, second_moment
from narrowgauge.kernels.moments import LOG_UNIT, MomentCodec
from narrowgauge.kernels.random_words import key_of

Array = NDArray[np.float64]

SCHEMES = [first_moment(text) for text in ("nf4/1x64", "hif8/1x128", "int6f3/1x32")]
SCHEMES += [second_moment(text) for text in ("posit8es1/1x128", "udynamic4/1x64", "uint4/1x32", "rf8/1x256")]
CODED = [codec for pair in CODECS.values() for codec in pair if codec.columns] + SCHEMES
SECOND = [codec for codec in CODED if codec.second]
EXACT_ZERO = [codec for codec in CODED if codec.kind != "quantile" and (codec.second or codec.rounding != "dither")]
"""A dithered first moment is exactly zero where the second is, by which it is whitened."""
LOGS = [CODECS["log8"][1], CODECS["log4"][1], CODECS["log8"][1]._replace(rounding="nearest")]
HALF = np.asarray(0.5)


def label(codec: MomentCodec) -> str:
    return f"{codec.kind}-{codec.format}-{'v' if codec.second else 'm'}{codec.bits}-{codec.group}-{codec.rounding}"


def round_trip(x: Array, codec: MomentCodec, key: int = 1) -> Array:
    return decode_reference(*encode_reference(x, codec, key), codec, x.shape, key)


def single(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64)


def positive(count: int, spread: float = 1.0, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return single(1e-6 * rng.chisquare(20, count) * np.exp(spread * rng.standard_normal(count)))


def hexadecimal(codes: NDArray[np.generic]) -> str:
    return " ".join(f"{code:02X}" for code in codes.tolist())


def relative_rms(x: Array, decoded: Array) -> float:
    return float(np.sqrt(np.mean((decoded / x - 1) ** 2)))


def test_first_moment_vector_of_coat() -> None:
    i = np.arange(128)
    x = single((-1.0) ** i * 2.0 ** (-i / 16))
    codes, scale = encode_reference(x, first_moment("coat"))
    assert hexadecimal(codes[:16]) == "7E FD 7C FB 7A F9 78 F7 76 F5 73 F2 72 F1 70 EF"
    assert hexadecimal(codes[120:]) == "05 85 04 84 04 83 03 83"
    assert scale.tolist() == [[1.0, 2.0625]]
    decoded = round_trip(x, first_moment("coat"))
    np.testing.assert_allclose(decoded[:4], [1.0, -0.9647067, 0.927985, -0.8896501], rtol=1e-6)
    np.testing.assert_allclose(decoded[-3:], [-0.0042882, 0.0042882, -0.0042882], rtol=2e-5)
    assert relative_rms(x, decoded) == pytest.approx(0.01588, abs=5e-6)


def test_second_moment_vector_of_coat() -> None:
    v = single(1e-8 * (1 + np.arange(128) / 64))
    codes, scale = encode_reference(v, second_moment("coat"))
    assert hexadecimal(codes[:8]) == "02 03 03 04 04 05 06 07"
    assert hexadecimal(codes[120:]) == "79 7A 7B 7B 7C 7D 7D 7E"
    assert scale[0, 1] == 10.5
    assert relative_rms(v, round_trip(v, second_moment("coat"))) == pytest.approx(0.003253, abs=1e-6)


def test_logarithmic_and_whitened_vector() -> None:
    g = np.asarray([1e-3, -2e-3, 5e-4, 0.0, 3e-3, -1e-5, 2e-4, -8e-4])
    lo, step = np.asarray(-33.219281), np.asarray(0.06479385)
    codes = log_codes(g**2, lo, step, 254, "nearest", HALF)
    assert codes.tolist() == [206, 237, 175, 0, 255, 1, 134, 196]
    v = log_values(codes, lo, step, "nearest", HALF)
    expected = [9.96559e-7, 4.01009e-6, 2.47657e-7, 0.0, 9e-6, 1e-10, 3.92781e-8, 6.35995e-7]
    np.testing.assert_allclose(v, expected, rtol=2e-6)
    x = whitened(0.3 * g, v)
    assert np.abs(x).max() == pytest.approx(0.3027443, abs=1e-7)
    m_codes = softsign_codes(x / np.abs(x).max(), 127, "nearest", HALF)
    assert m_codes.tolist() == [127, -126, 127, 0, 126, -126, 127, -127]
    m = softsign_values(m_codes, 127, "nearest", HALF) * np.abs(x).max() * np.sqrt(v)
    expected = [3.02223e-4, -5.96779e-4, 1.50661e-4, 0.0, 8.94042e-4, -2.98014e-6, 6.0e-5, -2.41436e-4]
    np.testing.assert_allclose(m, expected, rtol=4e-6)


def test_probability_halfway_between_two_logarithmic_codes() -> None:
    assert log_probability(HALF, np.asarray(0.06479385)) == pytest.approx(0.494386, abs=1e-6)
    assert log_probability(np.asarray(0.0), np.asarray(0.3)) == 0
    assert log_probability(np.asarray(1.0), np.asarray(0.3)) == 1


def test_companded_codes_of_flashoptim() -> None:
    z = np.asarray([1, 0.5, 0.25, 0.1, 0.01, 0.002, 0.0019])
    assert softsign_codes(z, 127, "nearest", HALF).tolist() == [127, 85, 51, 23, 3, 1, 0]
    assert softsign_codes(-z, 127, "nearest", HALF).tolist() == [-127, -85, -51, -23, -3, -1, 0]
    assert softsign_values(np.asarray([127, -127, 0]), 127, "nearest", HALF).tolist() == [1, -1, 0]


def test_stored_logarithms_hold_the_ends_of_the_group() -> None:
    v = positive(1280, spread=2.0)
    for codec in LOGS:
        numbers = encode_reference(v, codec)[1]
        lo, bits = numbers[:, 0] * LOG_UNIT, numbers[:, 1].astype(np.uint16).astype(np.uint32) << np.uint32(16)
        step = bits.view(np.float32).astype(np.float64)
        groups = np.log2(v).reshape(-1, codec.group)
        high, low = groups.max(axis=1), groups.min(axis=1)
        assert ((lo <= low) & (low < lo + LOG_UNIT)).all()
        top = lo + codec.levels * step
        assert ((high <= top) & (top <= lo + (high - lo) * (1 + 2**-7) + 2**-16 * codec.levels)).all()


def test_logarithms_of_one_dead_element_cost_the_others_no_more_than_the_widest_step() -> None:
    v = positive(128, spread=0.2)
    v[5] = 1e-37
    for codec in LOGS:
        decoded = round_trip(v, codec)
        others = np.arange(128) != 5
        widest = 2**codec.most_step - 1
        assert np.abs(decoded / v - 1)[others].max() < 1.05 * widest
        assert decoded[5] > 0


@pytest.mark.parametrize("codec", LOGS, ids=label)
def test_logarithms_beyond_the_range_read_back_as_its_ends(codec: MomentCodec) -> None:
    groups = np.asarray([[2.0**-126, 2.0**127, 1.0, 0.0, 2.0**-140]])
    lo, step = log_numbers(groups, codec.levels, codec.most_step)
    codes = log_codes(groups, lo, step, codec.levels, codec.rounding, HALF)
    assert codes[0, 0] == 1
    assert codes[0, 1] == codec.levels + 1
    assert codes[0, 3:].tolist() == [0, 0]
    assert (log_values(codes, lo, step, codec.rounding, HALF)[0, :3] >= 2.0**-126).all()


@pytest.mark.parametrize("codec", LOGS[:2], ids=label)
def test_logarithmic_rounding_is_unbiased_in_the_value(codec: MomentCodec) -> None:
    v = positive(codec.group, spread=1.5)
    count = 4000
    draws = np.stack([round_trip(v, codec, key_of(3, 1, step)) for step in range(count)])
    numbers = encode_reference(v, codec)[1]
    step = (numbers[:, 1:].astype(np.uint32) << np.uint32(16)).view(np.float32)[0, 0]
    # Within the lattice: at its two ends a value has one neighbour (dither: none beyond), and D was rounded up.
    inside = (v > v.min() * 2**step) & (v < v.max() * 2**-step)
    error = draws.mean(axis=0) / v - 1
    spread = draws.std(axis=0) / v / np.sqrt(count)
    # Draws have 16 bits: a probability is off by at most 2^-17.
    assert np.abs(error / (spread + 1e-5))[inside].max() < 4.5
    assert abs(np.mean((error / (spread + 1e-5))[inside])) < 4.5 / np.sqrt(inside.sum())


def test_dithered_logarithms_have_the_same_error_everywhere() -> None:
    # A subtractive dither's error is uniform in a step, whatever the value: D ln 2 / sqrt(12) of it.
    codec = LOGS[1]
    v = positive(codec.group, spread=1.0)
    draws = np.stack([round_trip(v, codec, key_of(4, 1, step)) for step in range(2000)])
    numbers = encode_reference(v, codec)[1]
    step = float((numbers[:, 1:].astype(np.uint32) << np.uint32(16)).view(np.float32)[0, 0])
    inside = (v > v.min() * 2**step) & (v < v.max() * 2**-step)
    spread = np.log2(draws).std(axis=0)[inside]
    np.testing.assert_allclose(spread, step / np.sqrt(12), rtol=0.08)


def test_dithered_companded_codes_are_unbiased_before_companding() -> None:
    codec = first_moment("log4")._replace(whitened=False)
    x = single(np.random.default_rng(1).standard_normal(codec.group))
    scale = float(encode_reference(x, codec)[1][0, 0])
    draws = np.stack([round_trip(x, codec, key_of(5, 0, step)) for step in range(4000)]) / scale
    companded = 2 * draws / (1 + np.abs(draws))
    expected = 2 * (x / scale) / (1 + np.abs(x / scale))
    inside = np.abs(expected) < 1 - 1 / codec.levels
    error = (companded.mean(axis=0) - expected)[inside] * codec.levels * np.sqrt(12 * 4000)
    assert np.abs(error).max() < 4.5
    assert error.std() == pytest.approx(1.0, abs=0.3)


def test_bfloat16_states_are_rounded_without_bias() -> None:
    codec = second_moment("bf16_sr")
    v = positive(256)
    draws = np.stack([round_trip(v, codec, key_of(6, 1, step)) for step in range(1000)])
    spread = np.maximum(draws.std(axis=0), 1e-30) / np.sqrt(1000)
    assert np.abs((draws.mean(axis=0) - v) / spread).max() < 4.6
    np.testing.assert_allclose(draws, np.broadcast_to(v, draws.shape), rtol=2**-7)


@pytest.mark.parametrize("codec", CODED, ids=label)
@pytest.mark.parametrize("shape", [(300,), (17, 20)], ids=str)
def test_groups_of_zeros_read_back_as_zero(codec: MomentCodec, shape: tuple[int, ...]) -> None:
    assert not round_trip(np.zeros(shape), codec).any()


@pytest.mark.parametrize("codec", EXACT_ZERO, ids=label)
def test_zero_reads_back_as_zero_among_others(codec: MomentCodec) -> None:
    x = np.abs(np.random.default_rng(2).standard_normal((17, 20)))
    x.reshape(-1)[::3] = 0.0
    assert not round_trip(single(x), codec)[::3].any()


@pytest.mark.parametrize("name", CODECS)
def test_pairs_of_zeros_read_back_as_zeros(name: str) -> None:
    first, second = CODECS[name]
    g = single(np.random.default_rng(3).standard_normal(300))
    g[::3] = 0.0
    if second.kind in ("rank-1", "quantile"):
        second = second_moment("log8")
    for x in (g, np.zeros(300)):
        m, v = decode_pair(*encode_pair(0.1 * x, x**2, first, second, (5, 6)), first, second, 300, (5, 6))
        assert not m[x == 0].any()
        assert not v[x == 0].any()


@pytest.mark.parametrize("codec", SECOND, ids=label)
@pytest.mark.parametrize("tiny", [1e-10, 1e-20, 1e-37])
def test_positive_second_moment_never_reads_back_as_zero(codec: MomentCodec, tiny: float) -> None:
    v = np.ones((16, 64))
    v[3, 5::9] = tiny
    for key in range(20):
        assert (round_trip(v, codec, key) > 0).all()


@pytest.mark.parametrize("codec", CODED, ids=label)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_in_their_group(codec: MomentCodec, poison: float) -> None:
    x = positive(1024)
    clean = round_trip(x, codec)
    x[codec.group + 5] = poison
    decoded = round_trip(x, codec).reshape(-1, codec.group)
    assert np.isnan(decoded[1]).all()
    others = np.arange(len(decoded)) != 1
    assert np.array_equal(decoded[others], clean.reshape(-1, codec.group)[others])


@pytest.mark.parametrize("codec", CODED, ids=label)
@pytest.mark.parametrize("count", [1, 2, 127, 129, 0])
def test_short_last_groups_and_odd_counts_read_back(codec: MomentCodec, count: int) -> None:
    x = positive(count, spread=0.1)
    codes, _ = encode_reference(x, codec, 3)
    assert codes.size == -(-count // codec.per_byte)
    if codec.per_byte > 1 and count % codec.per_byte:
        rest = unpack_reference(codes, codec, codes.size * codec.per_byte)[count:]
        assert (rest == codec.zero_code).all()
    np.testing.assert_allclose(round_trip(x, codec, 3), x, rtol=1.0)


@pytest.mark.parametrize("name", CODECS)
def test_offset_is_the_place_in_the_whole_parameter(name: str) -> None:
    first, second = CODECS[name]
    if second.kind == "rank-1":
        second = second_moment("log8")
    m, v = positive(1024, seed=1), positive(1024, seed=2)
    whole = decode_pair(*encode_pair(m, v, first, second, (1, 2)), first, second, 1024, (1, 2))
    part = decode_pair(*encode_pair(m[512:], v[512:], first, second, (1, 2), 512), first, second, 512, (1, 2), 512)
    for all_of_it, half in zip(whole, part, strict=True):
        assert np.array_equal(all_of_it[512:], half)


def test_dither_needs_the_key_that_wrote() -> None:
    codec = second_moment("log4")
    v = positive(1024)
    stored = encode_reference(v, codec, 10)
    right, wrong = (decode_reference(*stored, codec, v.shape, key) for key in (10, 11))
    assert relative_rms(v, wrong) > 1.3 * relative_rms(v, right)


def test_packed_codes_have_the_first_in_the_low_bits() -> None:
    codec = first_moment("log4")._replace(rounding="nearest")
    codes, _ = encode_reference(np.asarray([1.0, -1.0, 0.0]), codec)
    assert codes.tolist() == [0x97, 0x00]  # 7, -7 in two's complement; 0, and the zero of a place that is left over


def test_whitening_is_by_what_the_second_moment_reads_back_as() -> None:
    first, second = CODECS["log8"]
    m, v = positive(128, seed=1), positive(128, seed=2)
    stored_m, stored_v = encode_pair(m, v, first, second, (1, 2))
    read = decode_reference(*stored_v, second, v.shape, 2)
    alone = encode_reference(single(m / np.sqrt(read)), first, 1)
    assert np.array_equal(stored_m.codes, alone.codes)
    # The error of v does not reach m: it comes back as well as by an exact v.
    decoded, _ = decode_pair(stored_m, stored_v, first, second, 128, (1, 2))
    exact = round_trip(single(m / np.sqrt(v)), first) * np.sqrt(v)
    assert relative_rms(m, decoded) == pytest.approx(relative_rms(m, exact), rel=0.1)


def stationary_pair(count: int, beta1: float, beta2: float) -> tuple[Array, Array]:
    """m and v of independent Gaussian gradients after ten time constants."""
    rng = np.random.default_rng(4)
    m, v = np.zeros(count), np.zeros(count)
    for _ in range(int(10 / (1 - beta2))):
        g = 1e-3 * rng.standard_normal(count)
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g * g - v)
    return single(m), single(v)


def test_codecs_have_the_accuracy_that_theory_gives() -> None:
    m, v = stationary_pair(1 << 14, 0.9, 0.95)
    nearest = LOGS[2]
    numbers = encode_reference(v, nearest)[1]
    step = (numbers[:, 1:].astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    law = float(np.sqrt(np.mean((np.log(2) * step) ** 2) / 12))
    assert relative_rms(v, round_trip(v, nearest)) == pytest.approx(law, rel=0.02)
    assert law == pytest.approx(1.3e-3, rel=0.05)
    # FlashOptim's, with a group of 32.
    first, second = CODECS["flash"]
    error = round_trip(m, first) - m
    assert float(np.mean(error**2) / np.mean(m**2)) == pytest.approx(2.5e-5, rel=0.1)
    assert relative_rms(v, round_trip(v, second)) == pytest.approx(2.9e-3, rel=0.1)


def test_update_direction_of_log8_has_a_fifth_of_coats_error() -> None:
    m, v = stationary_pair(1 << 14, 0.9, 0.95)

    def error(first: MomentCodec, second: MomentCodec) -> float:
        stored: tuple[Stored, Stored] = encode_pair(m, v, first, second, (1, 2))
        read_m, read_v = decode_pair(*stored, first, second, m.size, (1, 2))
        exact = m / np.sqrt(v)
        return float(np.mean((read_m / np.sqrt(read_v) - exact) ** 2) / np.mean(exact**2))

    coat = error(*CODECS["coat"])
    assert coat == pytest.approx(2.13e-4, rel=0.05)
    assert error(CODECS["log8"][0], LOGS[2]) == pytest.approx(0.31e-4, rel=0.1)
    assert error(*CODECS["log8"]) < 0.2 * coat
