from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels._triton import HAS_TRITON
from narrowgauge.kernels.prologues.exponential import exp_numpy, exp_torch

X = np.linspace(-86, 86, 200001).astype(np.float32)


def test_exp_is_as_near_as_its_docstring_says() -> None:
    true = np.exp(X.astype(np.float64))
    assert (np.abs(exp_numpy(X) / true - 1) <= 2e-7 + np.abs(X) * 7.5e-8).all()


def test_exp_of_zero_is_one() -> None:
    assert exp_numpy(np.float32([0.0, -0.0])).tolist() == [1.0, 1.0]


def test_exp_stays_finite_beyond_the_ends() -> None:
    ends = exp_numpy(np.float32([-1e30, -200.0, 200.0, np.inf, -np.inf]))
    assert ends.tolist() == [2.0**-126, 2.0**-126, 2.0**127, 2.0**127, 2.0**-126]


def test_exp_in_torch_has_the_bits_of_numpy() -> None:
    wide = np.concatenate([X, np.float32([-1e30, 1e30, np.inf, -np.inf, 1e-45])])
    memory = torch.empty((2, len(wide)))
    assert np.array_equal(exp_torch(torch.from_numpy(wide.copy()), *memory).numpy(), exp_numpy(wide))


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_exp_names_its_constants_once() -> None:
    from narrowgauge.kernels.prologues import exponential

    values = [getattr(exponential, f"_C{i}").value for i in range(6)]
    assert tuple(values) == exponential.COEFFICIENTS
