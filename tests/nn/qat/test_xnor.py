"""XNOR-Net: mean magnitude times sign, and both gradients by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.nn.qat import XNORActivation, XNORWeight


@pytest.mark.parametrize("gradient", ["ste", "scaled"])
def test_weights_and_their_gradient(gradient: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 20, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(6, 20, dtype=torch.float64, generator=generator)
    y = XNORWeight(gradient).bind(w)(w)
    a = w.detach().numpy()
    alpha = np.abs(a).mean(1, keepdims=True)
    np.testing.assert_allclose(y.detach().numpy(), alpha * np.where(a >= 0, 1, -1), rtol=1e-15)
    y.backward(g)
    gate = np.abs(a) <= 1
    slope = gate if gradient == "ste" else 1 / 20 + alpha * gate
    np.testing.assert_allclose(w.grad.numpy(), g.numpy() * slope, rtol=1e-14)
    assert 0 < gate.sum() < gate.size


def test_activations() -> None:
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    g = torch.randn(2, 5, 8)
    y = XNORActivation()(x)
    a = x.detach().double().numpy()
    np.testing.assert_allclose(y.detach().numpy(), np.abs(a).mean(-1, keepdims=True) * np.sign(a), rtol=1e-6)
    y.backward(g)
    assert torch.equal(x.grad, g * (x.detach().abs() <= 1))


def test_a_row_of_zeros_stays_zero() -> None:
    assert torch.equal(XNORWeight()(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_the_gradient_is_named() -> None:
    with pytest.raises(ValueError, match="gradient: got 'paper', accepted: ste, scaled"):
        XNORWeight("paper")
