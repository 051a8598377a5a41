"""Parameter masters: published vectors, and that nothing is lost on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels._masters_reference import (
    bfloat16,
    bfloat16_number,
    bfloat16_up,
    half_ulp,
    join_weight,
    round_weight,
    split_weight,
)
from narrowgauge.kernels.random_words import key_of

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)
SUBNORMAL = 2.0**-133


def bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


@pytest.mark.parametrize(("x", "low", "probability"), [
    (1 + 2.0**-10, 0x3F800000, 0.125), (-3.1415927, 0xC0490000, 0.061935), (65504.0, 0x477F0000, 0.875),
])  # fmt: skip
def test_stochastic_vectors(x: float, low: int, probability: float) -> None:
    rounded = bfloat16(np.full(1 << 16, x), EVERY_HALF)
    patterns, counts = np.unique(rounded.astype(np.float32).view(np.uint32), return_counts=True)
    assert patterns.tolist() == [low, low + 0x10000]
    assert counts[1] / 65536 == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("x", [1 + 2.0**-10, -3.1415927, 1e-39, -7.3 * SUBNORMAL, 3e38, 1.0, 0.0])
def test_stochastic_rounding_is_unbiased_for_every_magnitude(x: float) -> None:
    wide = float(np.float32(x))
    mean = bfloat16(np.full(1 << 16, wide), EVERY_HALF).mean()
    assert mean == pytest.approx(wide, rel=1e-12)


def test_mean_of_a_million_draws_of_the_hash() -> None:
    # Three standard deviations are 8e-6.
    mean = round_weight(np.full(10**6, 1 + 2.0**-10), key_of(1, 2, 3)).mean()
    assert mean == pytest.approx(1 + 2.0**-10, abs=8e-6)


@pytest.mark.parametrize("x", [np.inf, -np.inf, np.nan])
def test_values_that_are_not_finite_stay(x: float) -> None:
    np.testing.assert_array_equal(bfloat16(np.full(1 << 16, x), EVERY_HALF), x)
    np.testing.assert_array_equal(bfloat16(np.full(3, x)), x)


def test_nearest_is_torchs_rounding() -> None:
    patterns = np.random.default_rng(3).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    x = patterns.view(np.float32)
    ties = (patterns & np.uint32(0xFFFF0000) | np.uint32(0x8000)).view(np.float32)
    for patterns_of in (x, ties):
        values = patterns_of[~np.isnan(patterns_of)]
        expected = torch.from_numpy(values.copy()).bfloat16().double().numpy()
        np.testing.assert_array_equal(bfloat16(values), expected)


def test_rounding_up_gives_the_smallest_number_that_is_not_below() -> None:
    x = np.abs(np.random.default_rng(4).standard_normal(1000)).astype(np.float32)
    up = bfloat16_up(x)
    assert (up >= x).all()
    assert (bfloat16(up) == up).all()
    below = (up.astype(np.float32).view(np.uint32) - np.uint32(0x10000)).view(np.float32)
    assert (below < x).all()
    assert bfloat16_up(np.asarray([1.5, 0.0])).tolist() == [1.5, 0.0]


def test_numbers_of_groups_stay_finite() -> None:
    largest = float(torch.finfo(torch.bfloat16).max)
    beyond = np.asarray([3.4e38, np.nan])
    for rounding in (bfloat16_number, bfloat16_up):
        np.testing.assert_array_equal(rounding(beyond), [largest, np.nan])


@pytest.mark.parametrize(("p", "expected"), [
    (1.0, 2.0**-8), (1.9921875, 2.0**-8), (-2.0, 2.0**-7), (0.75, 2.0**-9), (2.0**-126, 2.0**-134),
    (SUBNORMAL, 2.0**-134), (0.0, 2.0**-134), (2.0**127, 2.0**119),
])  # fmt: skip
def test_half_ulps(p: float, expected: float) -> None:
    assert half_ulp(np.asarray([p]))[0] == expected


def test_residual_leaves_at_most_its_published_error() -> None:
    # 2^-8 / 254 of the weight to nearest (FlashOptim, arXiv 2602.23349); stochastically up to twice as much.
    w = np.exp(np.random.default_rng(5).uniform(-20, 20, 1 << 18)).astype(np.float32).astype(np.float64)
    p, r = split_weight(w, key_of(0, 2, 1))
    error = np.abs(join_weight(p, r) / w - 1)
    assert 1.5 * 1.538e-5 < error.max() < 2 * 1.5385e-5
    nearest = np.rint(127 * (w - p) / half_ulp(p)).astype(np.int8)
    assert np.abs(join_weight(p, nearest) / w - 1).max() == pytest.approx(1.538e-5, rel=2e-3)
    assert np.array_equal(p, bfloat16(w))


def test_weights_come_back_from_what_was_split() -> None:
    # What lies on the lattice of the residuals stays there, whatever is drawn.
    # (A weight half an ulp from p may change to the other neighbour of the same distance.)
    w = join_weight(*split_weight(np.random.default_rng(6).standard_normal(4096), 1))
    for key in range(2, 8):
        np.testing.assert_allclose(join_weight(*split_weight(w, key)), w, rtol=1e-15)


def test_residual_is_rounded_without_bias_and_within_its_range() -> None:
    w = np.random.default_rng(8).standard_normal(256).astype(np.float32).astype(np.float64)
    joined = np.stack([join_weight(*split_weight(w, key_of(3, 2, step))) for step in range(1, 1001)])
    spread = half_ulp(bfloat16(w)) / 127 * 0.5 / np.sqrt(1000)
    assert np.abs((joined.mean(axis=0) - w) / spread).max() < 4.5
    halfway = np.asarray([1 + 2.0**-8, -(1 + 2.0**-8), 1 + 3 * 2.0**-8])
    for step in range(50):
        p, r = split_weight(halfway, key_of(0, 2, step))
        np.testing.assert_allclose(join_weight(p, r), halfway, rtol=1e-15)


def test_decay_of_three_millionths_a_step_is_not_lost() -> None:
    # (1 - 3e-6)^2000 = 0.99402: to nearest the residual would stay where it is (Databricks' code does).
    w = np.ones(4096)
    for step in range(1, 2001):
        w = join_weight(*split_weight(w * (1 - 3e-6), key_of(0, 2, step)))
    assert w.mean() == pytest.approx(0.99402, abs=2e-5)
    assert w.std() < 4e-4


@pytest.mark.parametrize("w", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_have_no_residual(w: float) -> None:
    p, r = split_weight(np.asarray([w, 1.0]))
    np.testing.assert_array_equal(p[0], w)
    assert r[0] == 0


def test_offset_is_the_place_in_the_whole_parameter() -> None:
    w = np.random.default_rng(9).standard_normal(1000)
    whole, part = split_weight(w, 77), split_weight(w[300:], 77, 300)
    assert np.array_equal(whole[1][300:], part[1])
    assert np.array_equal(round_weight(w, 77)[300:], round_weight(w[300:], 77, 300))
