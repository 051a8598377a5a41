"""Weights in two and three bytes: what is kept in one write, and what of a small step."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.bench.optim_peers.weights import Bf16Weight, SplitWeight

NEAREST, STOCHASTIC = SplitWeight("nearest", stochastic=False), SplitWeight("stochastic", stochastic=True)


@pytest.mark.parametrize("codec", [NEAREST, STOCHASTIC])
def test_split_weights_keep_24_bits(codec: SplitWeight) -> None:
    w = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    high, rest = codec.store_weight(w, 3)
    assert rest.min() >= -127
    bound = 2.0**-8 / 127 * (1 + 2**-8)
    assert np.max(np.abs(codec.load_weight((high, rest)) / w - 1.0)) <= bound


def test_stochastic_rest_keeps_a_step_of_a_millionth_on_average() -> None:
    w = np.full(20_000, 1.0 + 1e-6, np.float32)
    mean = STOCHASTIC.load_weight(STOCHASTIC.store_weight(w, 1)).astype(np.float64).mean() - 1.0
    assert mean == pytest.approx(float(w[0]) - 1.0, rel=0.2)
    assert (NEAREST.load_weight(NEAREST.store_weight(w, 1)) == 1.0).all()


def test_bfloat16_weights_lose_it() -> None:
    w = np.full(1000, 1.0 + 1e-4, np.float32)
    codec = Bf16Weight("nearest", stochastic=False)
    assert (codec.load_weight(codec.store_weight(w)) == 1.0).all()
    codec = Bf16Weight("stochastic", stochastic=True)
    assert 0 < np.mean(codec.load_weight(codec.store_weight(w, 1)) > 1.0) < 0.1


def test_zero_subnormal_and_special_weights_are_kept() -> None:
    w = np.array([0.0, -0.0, 1e-40, np.inf, -np.inf], np.float32)
    read = NEAREST.load_weight(NEAREST.store_weight(w))
    np.testing.assert_array_equal(read[:2], w[:2])
    assert abs(read[2] - w[2]) <= 2.0**-133
