from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.kernels.prologues.rms_norm import RMS_NORM, roots_numpy


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e10, 1e18])
def test_root_is_near_at_every_magnitude(scale: float) -> None:
    x = (np.random.default_rng(0).standard_normal((16, 4096)) * scale).astype(np.float32)
    true = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-30)
    assert np.allclose(roots_numpy(x, 1e-30), true, rtol=1e-6, atol=0)


def test_root_does_not_depend_on_the_order_of_the_columns() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((8, 5000)) * np.exp(3 * rng.standard_normal((8, 5000)))).astype(np.float32)
    assert np.array_equal(roots_numpy(x, 1e-6), roots_numpy(x[:, rng.permutation(5000)], 1e-6))


def test_root_loses_no_more_than_the_docstring_says_beside_an_outlier() -> None:
    x = np.full((1, 16384), 2.0**-14.01, np.float32)
    x[0, 0] = 1.0
    true = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-30)
    error = roots_numpy(x, 1e-30) / true - 1
    assert 0 < error < 16384 * 2.0**-28


def test_rows_that_are_not_finite_stay_among_themselves() -> None:
    x = np.ones((3, 8), np.float32)
    x[0, 2], x[1, 3] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        y = RMS_NORM.define(x, None, None, 1e-6)
    assert np.isnan(y[0]).all()
    assert np.isnan(y[1]).tolist() == [column == 3 for column in range(8)]
    assert (y[1, :3] == 0).all()
    assert np.allclose(y[2], 1)


def test_mean_beyond_float32_gives_zeros() -> None:
    with np.errstate(over="ignore"):
        assert (RMS_NORM.define(np.full((1, 4), 3e38, np.float32), None, None, 1e-6) == 0).all()
