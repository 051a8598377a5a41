"""SOLO's logarithmic 2-bit code: its values, its bias, and the quantile that is 0."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.bench.optim_peers.solo import QUANTILE, Solo, _quantile

CODEC = Solo()


def second(count: int = 1024) -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 1.0, count).astype(np.float32)


def read(v: np.ndarray, seed: int = 0) -> np.ndarray:
    return CODEC.load(CODEC.store(v, v, seed))[1]


def test_four_values_in_a_group_from_its_largest_down_to_its_quantile() -> None:
    v = second(128)
    values = np.unique(np.concatenate([read(v, seed) for seed in range(8)]))
    assert values.size == 4
    assert values[-1] == pytest.approx(v.max())
    assert values[0] == pytest.approx(np.quantile(v, QUANTILE), rel=1e-4)
    np.testing.assert_allclose(values[1:] / values[:-1], values[1] / values[0], rtol=1e-4)


def test_the_quantile_is_interpolated() -> None:
    v = second(256).reshape(2, 128)
    np.testing.assert_allclose(_quantile(v)[:, 0], np.quantile(v, QUANTILE, axis=1), rtol=1e-6)


def test_the_mean_over_seeds_is_above_the_value() -> None:
    v = second(128)
    low, high = np.quantile(v, (0.2, 0.9))
    inside = (v > low) & (v < high)
    mean = np.mean([read(v, seed) for seed in range(300)], axis=0)
    step = np.log(v.max() / np.quantile(v, QUANTILE)) / 3
    assert 0.3 * step**2 / 8 < np.mean(mean[inside] / v[inside] - 1.0) < 2.0 * step**2 / 8


def test_seeds_matter() -> None:
    assert not np.array_equal(read(second(), 1), read(second(), 2))
    np.testing.assert_array_equal(read(second(), 3), read(second(), 3))


def test_where_the_quantile_is_zero_all_read_back_as_the_largest() -> None:
    v = second(128)
    v[:20] = 0.0
    assert (read(v) == v.max()).all()


def test_it_takes_less_than_a_byte() -> None:
    state = CODEC.store(second(), second(), 0)
    assert sum(part.nbytes for part in state[:5]) / 1024 == CODEC.bytes_per_parameter == 0.84375
