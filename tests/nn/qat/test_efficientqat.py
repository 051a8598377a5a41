"""EfficientQAT: the asymmetric quantiser, its three gradients by hand, and frozen integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.nn.qat import EfficientQATWeight, affine_quantize


def test_forward_and_gradients_are_the_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 2, 16, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(6, 2, 16, dtype=torch.float64, generator=generator)
    scale = (torch.rand(6, 2, 1, dtype=torch.float64, generator=generator) * 0.3 + 0.3).requires_grad_()
    zero = (torch.rand(6, 2, 1, dtype=torch.float64, generator=generator) * 3).requires_grad_()
    y = affine_quantize(w, scale, zero, 2)
    a, s, z = w.detach().numpy(), scale.detach().numpy(), np.rint(zero.detach().numpy())
    shifted = np.rint(a / s) + z
    c = np.clip(shifted, 0, 3)
    inside = shifted == c
    assert 0.2 < inside.mean() < 0.95
    np.testing.assert_allclose(y.detach().numpy(), s * (c - z), atol=1e-14)
    y.backward(g)
    up = g.numpy()
    assert np.array_equal(w.grad.numpy(), up * inside)
    of_scale = (up * np.where(inside, np.rint(a / s) - a / s, c - z)).sum(2, keepdims=True)
    np.testing.assert_allclose(scale.grad.numpy(), of_scale, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(zero.grad.numpy(), (up * ~inside * -s).sum(2, keepdims=True), rtol=1e-12, atol=1e-14)


def test_it_begins_at_min_and_max_of_each_group() -> None:
    w = torch.randn(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer = EfficientQATWeight(3, group=8).bind(w)
    tiles = w.numpy().reshape(4, 4, 8)
    scale = (tiles.max(2) - tiles.min(2)) / 7
    np.testing.assert_allclose(quantizer.scale.detach().numpy(), scale, rtol=1e-12)
    assert np.array_equal(quantizer.zero.detach().numpy(), np.rint(-tiles.min(2) / scale))
    error = np.abs(quantizer(w).detach().numpy() - w.numpy()).reshape(4, 4, 8)
    assert (error <= 1.01 * scale[:, :, None]).all()


def test_the_zero_point_is_a_code() -> None:
    w = torch.tensor([[2.0, 2.5, 3.0, 3.5], [-3.5, -3.0, -2.5, -2.0]], dtype=torch.float64)
    quantizer = EfficientQATWeight(2, group=4).bind(w)
    assert quantizer.zero.flatten().tolist() == [-4.0, 7.0]
    # z is 0 and 3, so that codes reach from 0 to 3 s and from -3 s to 0, s = 1/2.
    assert quantizer(w).tolist() == [[1.5] * 4, [-1.5] * 4]
    assert quantizer.codes(w).zero_point.flatten().tolist() == [0.0, 3.0]


def test_scales_outside_their_range_are_clamped_and_still_have_a_gradient() -> None:
    w = torch.full((1, 1, 4), 3e-5, dtype=torch.float64, requires_grad=True)
    scale = torch.full((1, 1, 1), 1e-6, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
    y = affine_quantize(w, scale, zero, 4)
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    np.testing.assert_allclose(scale.grad.item(), 4 * -0.3, rtol=1e-12)


def test_frozen_integers_leave_scale_times_code() -> None:
    w = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    quantizer = EfficientQATWeight(2, group=8).bind(w.detach())
    before = quantizer(w).detach()
    quantizer.freeze_integers_(w.detach())
    y = quantizer(w)
    assert torch.equal(y, before)
    g = torch.randn(4, 16, dtype=torch.float64)
    y.backward(g)
    levels = quantizer.integers.double().reshape(4, 2, 8) - quantizer.zero.detach().round()[:, :, None]
    torch.testing.assert_close(quantizer.scale.grad, (g.reshape(4, 2, 8) * levels).sum(2))
    assert w.grad is None
    assert not quantizer.zero.requires_grad
    with torch.no_grad():
        quantizer.scale.mul_(2)
    torch.testing.assert_close(quantizer(w), 2 * before)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="bits: got 1"):
        EfficientQATWeight(1)
    with pytest.raises(ValueError, match="granularity: got 0"):
        EfficientQATWeight(2, 0)
    with pytest.raises(ValueError, match="group: 64 does not divide the 32 inputs"):
        EfficientQATWeight(2, 64).bind(torch.zeros(2, 32))
