from __future__ import annotations

import math

import numpy as np

from narrowgauge.kernels.prologues.gelu import gelu_numpy, gelu_tanh_numpy

X = np.linspace(-12, 12, 240001).astype(np.float32)


def test_gelu_is_as_near_as_its_docstring_says() -> None:
    erf = np.array([math.erf(v / math.sqrt(2)) for v in X.astype(np.float64)])
    assert (np.abs(gelu_numpy(X) - X / 2.0 * (1 + erf)) <= 4e-7 * np.abs(X)).all()


def test_gelu_ends_in_zero_and_in_x() -> None:
    assert gelu_numpy(np.float32([-6.0, -1e30, 6.0, 1e30])).tolist() == [0.0, 0.0, 6.0, np.float32(1e30)]


def test_gelu_tanh_follows_the_published_formula() -> None:
    x = X.astype(np.float64)
    true = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert (np.abs(gelu_tanh_numpy(X) - true) <= 1e-6 * np.abs(X)).all()
