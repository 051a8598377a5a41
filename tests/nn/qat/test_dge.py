"""DGE: FP4 forward, the shaped and capped derivative backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.qat import DGEWeight

LEVELS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def test_the_gradient_is_shaped_per_gap_and_capped() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 40, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(6, 40, dtype=torch.float64, generator=generator)
    quantizer = DGEWeight(k=5, cap=3).bind(w)
    y = quantizer(w)
    assert torch.equal(y.detach(), fake_quantize(w.detach(), "e2m1fn/row"))
    y.backward(g)
    a = np.abs(w.detach().numpy())
    scale = (a.max(1, keepdims=True) / 6).astype(np.float32).astype(np.float64)
    m = np.minimum(a / scale, 6)
    upper = np.clip(np.searchsorted(LEVELS, m, side="right"), 1, 7)
    gap = LEVELS[upper] - LEVELS[upper - 1]
    with np.errstate(divide="ignore"):
        slope = np.minimum(np.abs(2 * (m - LEVELS[upper - 1]) / gap - 1) ** (1 / 5 - 1) / 5, 3)
    np.testing.assert_allclose(w.grad.numpy(), g.numpy() * slope, rtol=1e-5)


def test_the_slope_at_levels_borders_and_with_k_one() -> None:
    slope = DGEWeight(k=5, cap=3).slope(torch.tensor([0.0, 0.25, 5.0, 6.0, -2.5, 7.0], dtype=torch.float64))
    torch.testing.assert_close(slope, torch.tensor([0.2, 3.0, 3.0, 0.2, 3.0, 0.2], dtype=torch.float64))
    flat = DGEWeight(k=1).slope(torch.linspace(-6, 6, 33))
    assert torch.equal(flat, torch.ones(33))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"k: got 0\.5"):
        DGEWeight(k=0.5)
    with pytest.raises(ValueError, match="cap: got 0"):
        DGEWeight(cap=0)
