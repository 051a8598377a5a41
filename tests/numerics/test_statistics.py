"""Bounds and scores against what sums in low precision do."""

import math

import numpy as np
import pytest

from narrowgauge.formats import get
from narrowgauge.numerics.check import gamma
from narrowgauge.numerics.statistics import (
    accumulation_bound,
    probabilistic_bound,
    round_significand,
    truncate_significand,
    z_limit,
    z_scores,
)


def test_the_accumulation_bound_is_gamma_while_that_exists() -> None:
    assert accumulation_bound(300, 2.0**-24) == gamma(300)
    assert accumulation_bound(300, 2.0**-8) == pytest.approx((1 + 2.0**-8) ** 300 - 1)
    assert accumulation_bound(10**6, 2.0**-8) == math.inf


def test_biased_sums_exceed_sqrt_n_u_but_not_the_deterministic_bound(rng: np.random.Generator) -> None:
    n, bits = 4096, 8
    total = 0.0
    terms = rng.random(n) * rng.random(n)
    for term in terms:
        total = float(round_significand(np.array(total + term), bits))
    omega = abs(total - terms.sum()) / terms.sum()
    assert omega > math.sqrt(n) * 2.0**-bits
    assert omega <= accumulation_bound(n, 2.0**-bits)


def test_sums_of_normal_products_stay_within_the_probabilistic_bound(rng: np.random.Generator) -> None:
    terms = rng.standard_normal(1024).astype(np.float32)
    total = np.cumsum(terms, dtype=np.float32)[-1]
    omega = abs(float(total) - float(terms.sum(dtype=np.float64))) / float(np.abs(terms).sum(dtype=np.float64))
    assert omega <= probabilistic_bound(1024, 2.0**-24)


@pytest.mark.parametrize(("name", "bits"), [("bf16", 8), ("tf32", 11), ("e4m3fn", 4)])
def test_rounding_to_significant_bits_is_that_of_the_format(name: str, bits: int, rng: np.random.Generator) -> None:
    x = np.concatenate([rng.uniform(1.0, 4.0, 1000), -rng.uniform(1.0, 4.0, 1000), [0.0, 1.0, 1.0 + 2.0**-bits]])
    np.testing.assert_array_equal(round_significand(x, bits), get(name).round(x))
    np.testing.assert_array_equal(truncate_significand(x, bits), get(name).round(x, "toward_zero"))


def test_z_scores_leave_out_the_slack_and_are_infinite_without_variance() -> None:
    mean, expected = np.array([1.0, 1.0, 1.5, np.nan]), np.zeros(4)
    variance = np.array([0.25, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(z_scores(mean, expected, variance, 1.0), [0.0, 0.0, np.inf, np.inf])
    np.testing.assert_array_equal(z_scores(mean[:1], expected[:1], variance[:1], 0.0), [2.0])


def test_the_largest_of_many_normal_numbers_stays_below_the_limit(rng: np.random.Generator) -> None:
    assert np.abs(rng.standard_normal(100_000)).max() < z_limit(100_000)
    assert z_limit(1) == 5.0
