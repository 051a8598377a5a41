from __future__ import annotations

import numpy as np

from narrowgauge.kernels.prologues.silu import silu_numpy


def test_silu_is_near_the_exact_function() -> None:
    x = np.linspace(-80, 80, 160001).astype(np.float32)
    true = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    assert (np.abs(silu_numpy(x) - true) <= (4e-7 + 7.5e-8 * np.abs(x)) * np.abs(true)).all()


def test_silu_of_zero_is_zero_with_its_sign() -> None:
    assert np.signbit(silu_numpy(np.float32([0.0, -0.0]))).tolist() == [False, True]
