"""DoReFa: weights, activations and gradients against float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.nn.qat import DoReFaActivation, DoReFaGradient, DoReFaWeight, dorefa_gradient


def weight_and_upstream() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 9, dtype=torch.float64, generator=generator)
    return w.requires_grad_(), torch.randn(5, 9, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_weights_forward_and_backward(bits: int) -> None:
    w, g = weight_and_upstream()
    y = DoReFaWeight(bits).bind(w)(w)
    a, top = w.detach().numpy(), 2**bits - 1
    t = np.tanh(a)
    m = np.abs(t).max()
    expected = 2 * np.rint((t / (2 * m) + 0.5) * top) / top - 1
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-15)
    y.backward(g)
    # u = t / m, so du_j/dt_i = δ_ij / m − [i is the largest] sign(t_i) t_j / m², and dt/dw = 1 − t².
    of_t = g.numpy() / m
    at = np.unravel_index(np.abs(t).argmax(), t.shape)
    of_t[at] -= np.sign(t[at]) * (g.numpy() * t).sum() / m**2
    np.testing.assert_allclose(w.grad.numpy(), of_t * (1 - t**2), atol=1e-13)


def test_one_bit_is_the_mean_magnitude_times_sign() -> None:
    w, g = weight_and_upstream()
    y = DoReFaWeight(1).bind(w)(w)
    a = w.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), np.abs(a).mean() * np.sign(a), rtol=1e-14)
    y.backward(g)
    assert torch.equal(w.grad, g)


def test_activations() -> None:
    x = torch.linspace(-0.5, 1.5, 41, dtype=torch.float64, requires_grad=True)
    y = DoReFaActivation(3)(x)
    expected = np.rint(np.clip(x.detach().numpy(), 0, 1) * 7) / 7
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-15)
    y.sum().backward()
    assert torch.equal(x.grad, ((x >= 0) & (x <= 1)).double())


@pytest.mark.parametrize("bits", [1, 2, 6])
def test_gradients_lie_on_the_grid_of_their_sample_and_are_unbiased(bits: int) -> None:
    g = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    top = 2**bits - 1
    largest = g.abs().amax((1, 2), keepdim=True)
    draws = torch.stack([dorefa_gradient(g, bits, seed=1, offset=i) for i in range(600)])
    level = (draws / (2 * largest) + 0.5) * top
    torch.testing.assert_close(level, level.round(), atol=1e-4, rtol=0)
    assert level.min() > -1e-3
    assert level.max() < top + 1e-3
    error = (draws.mean(0) - g).abs()
    step = 2 * largest / top
    assert (error <= 6 * step * 0.5 / 600**0.5 + 1e-6).all()
    assert torch.equal(dorefa_gradient(g, bits, seed=1, offset=7), draws[7])


def test_the_module_quantises_the_gradient_of_its_output_alone() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    module = DoReFaGradient(bits=2, seed=5)
    y = module(x)
    assert torch.equal(y, x)
    g = torch.randn(2, 3)
    y.backward(g)
    assert torch.equal(x.grad, dorefa_gradient(g, 2, 5, 0))
    assert int(module.draws) == 1
    with torch.no_grad():
        module(x)
    assert int(module.draws) == 1


def test_zero_and_empty_gradients() -> None:
    assert torch.equal(dorefa_gradient(torch.zeros(2, 3), 4, 0), torch.zeros(2, 3))
    assert dorefa_gradient(torch.zeros(0, 3), 4, 0).shape == (0, 3)


def test_bits_are_checked() -> None:
    for make in (DoReFaWeight, DoReFaActivation, DoReFaGradient):
        with pytest.raises(ValueError, match="bits: got 9"):
            make(9)
