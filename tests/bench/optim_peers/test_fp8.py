"""E4M3 states without expansion: precise in their range, zero below it."""

from __future__ import annotations

import numpy as np

from narrowgauge.bench.optim_peers.fp8 import GroupedE4M3, PerTensor
from narrowgauge.numerics import relative_rms

TORCHAO = GroupedE4M3("torchao FP8", 256)


def test_relative_error_is_that_of_e4m3() -> None:
    v = np.random.default_rng(0).gamma(20, 1e-7, 1 << 14).astype(np.float32)
    _, read = TORCHAO.load(TORCHAO.store(v, v))
    assert 0.025 < relative_rms(read, v) < 0.028
    assert np.max(np.abs(read / v - 1)) <= 1 / 16


def test_a_small_v_of_a_group_becomes_zero_and_of_its_own_group_does_not() -> None:
    v = np.ones(512, np.float32)
    v[5] = 1e-6
    v[256:] = 1e-6
    _, read = TORCHAO.load(TORCHAO.store(v, v))
    assert read[5] == 0.0
    np.testing.assert_allclose(read[256:], 1e-6, rtol=1e-6)


def test_one_scale_for_the_tensor_loses_small_groups_of_m_and_keeps_more_of_v() -> None:
    codec = PerTensor()
    x = np.ones(512, np.float32)
    x[256:] = 1e-6
    m, v = codec.load(codec.store(x, x))
    assert not m[256:].any()
    np.testing.assert_allclose(v[256:], 1e-6, rtol=0.05)


def test_scales_of_a_tensor_are_powers_of_two_and_nothing_overflows() -> None:
    codec = PerTensor()
    for top in (1e-9, 0.3, 447.0, 1e5):
        x = np.full(4, top, np.float32)
        state = codec.store(x, x)
        assert np.log2(state[1]) == np.round(np.log2(state[1]))
        m, v = codec.load(state)
        np.testing.assert_allclose(m, x, rtol=1 / 16)
        np.testing.assert_allclose(v, x, rtol=1e-3)


def test_zeros_read_back_as_zeros() -> None:
    zeros = np.zeros(7, np.float32)
    for codec in (TORCHAO, PerTensor()):
        assert not any(part.any() for part in codec.load(codec.store(zeros, zeros)))
