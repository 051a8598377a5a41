"""`log8` to nearest: the ends of a group are exact, zeros and constants stay, and nothing that is positive vanishes."""

from __future__ import annotations

import numpy as np

from narrowgauge.bench.optim_peers.log_nearest import LogNearest, log_codes, log_values
from narrowgauge.numerics import relative_rms

CODEC = LogNearest()


def test_ends_of_a_group_are_the_first_and_the_last_code() -> None:
    v = np.exp(np.random.default_rng(0).standard_normal((4, 128))).astype(np.float32)
    codes, low, step = log_codes(v)
    assert (codes.min(axis=1) == 1).all()
    assert (codes.max(axis=1) == 255).all()
    np.testing.assert_allclose(log_values(codes, low, step).max(axis=1), v.max(axis=1), rtol=1e-5)


def test_the_error_is_the_logarithms_step() -> None:
    v = np.exp(2 * np.random.default_rng(1).standard_normal((64, 128))).astype(np.float32)
    codes, low, step = log_codes(v)
    octaves = np.log2(log_values(codes, low, step).astype(np.float64) / v)
    assert (np.abs(octaves) <= step / 2 * 1.01).all()


def test_zeros_stay_and_positive_values_do_not_become_zero() -> None:
    v = np.array([0.0, 1e-38, 1.0, 1e-20], np.float32)
    read = CODEC.load(CODEC.store(v, v))[1]
    assert read[0] == 0.0
    assert (read[1:] > 0.0).all()


def test_constant_and_lone_elements_are_kept() -> None:
    for count in (1, 129):
        x = np.full(count, 1e-3, np.float32)
        m, v = CODEC.load(CODEC.store(x, np.square(x)))
        assert relative_rms(m, x) < 1e-6
        assert relative_rms(v, np.square(x)) < 1e-6


def test_nan_stays_in_its_group() -> None:
    x = np.ones(256, np.float32)
    x[3] = np.nan
    m, v = CODEC.load(CODEC.store(x, np.abs(x)))
    assert np.isnan(m[:128]).all()
    assert np.isnan(v[:128]).all()
    assert np.isfinite(m[128:]).all()
