"""PACT: forward, both gradients, the penalty and the scheme of its codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.qat import PACTActivation, pact_penalty, pact_quantize


def test_forward_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(7, 30, dtype=torch.float64, generator=generator) * 2).requires_grad_()
    g = torch.randn(7, 30, dtype=torch.float64, generator=generator)
    alpha = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    y = pact_quantize(x, alpha, 3)
    a = x.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), np.rint(np.clip(a, 0, 1.7) * 7 / 1.7) * 1.7 / 7, atol=1e-14)
    y.backward(g)
    assert np.array_equal(x.grad.numpy(), g.numpy() * ((a >= 0) & (a < 1.7)))
    np.testing.assert_allclose(float(alpha.grad), (g.numpy() * (a >= 1.7)).sum(), rtol=1e-12)


def test_the_input_scheme_gives_the_same_values() -> None:
    module = PACTActivation(bits=4, alpha=2.3)
    x = torch.randn(9, 17) * 2
    assert torch.equal(module(x), fake_quantize(x, module.input_scheme))


def test_penalty_sums_squares() -> None:
    model = nn.Sequential(PACTActivation(alpha=2.0), nn.ReLU(), PACTActivation(alpha=3.0))
    penalty = pact_penalty(model)
    assert penalty.item() == 13.0
    penalty.backward()
    assert model[0].alpha.grad.item() == 4.0
    with pytest.raises(ValueError, match="no PACT activation"):
        pact_penalty(nn.ReLU())


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="activation_bits: got 1"):
        PACTActivation(bits=1)
    with pytest.raises(ValueError, match="alpha: got 0"):
        PACTActivation(alpha=0)
