"""A learned step: forward, and the analytic gradients of value, step and offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsq_formulas import lsq_reference
from narrowgauge.nn.learned_step import SMALLEST_STEP, first_step, lsq_quantize, positive, signed_range, step_factor


@pytest.mark.parametrize("offset", [None, 0.3])
@pytest.mark.parametrize(("low", "high"), [(-2, 1), (0, 7), (-128, 127)])
def test_forward_and_gradients_are_the_formulas(low: int, high: int, offset: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(11, 13, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(11, 13, dtype=torch.float64, generator=generator)
    step = torch.tensor(2.0 / (high - low + 1), dtype=torch.float64, requires_grad=True)
    beta = None if offset is None else torch.tensor(offset, dtype=torch.float64, requires_grad=True)
    y = lsq_quantize(v, step, low, high, factor=0.25, offset=beta)
    values, of_v, of_s, of_beta = lsq_reference(v.detach().numpy(), step.item(), low, high, offset or 0.0)
    np.testing.assert_allclose(y.detach().numpy(), values, atol=1e-14)
    y.backward(g)
    assert np.array_equal(v.grad.numpy(), g.numpy() * of_v)
    np.testing.assert_allclose(step.grad.item(), 0.25 * (g.numpy() * of_s).sum(), rtol=1e-10)
    if beta is not None:
        np.testing.assert_allclose(beta.grad.item(), 0.25 * (g.numpy() * of_beta).sum(), rtol=1e-10)


def test_the_code_part_of_the_step_gradient_is_a_finite_difference_at_fixed_codes() -> None:
    # ∂(s · q)/∂s = q while no code changes; LSQ adds −v/s inside the range.
    v = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    y = lsq_quantize(v, step, -4, 3)
    y.sum().backward()
    q = torch.round(torch.clamp(v / 0.37, -4, 3))
    h = 1e-7
    difference = ((0.37 + h) * q - (0.37 - h) * q).sum() / (2 * h)
    inside = (v / 0.37 > -4) & (v / 0.37 < 3)
    torch.testing.assert_close(step.grad, difference - (v / 0.37)[inside].sum(), rtol=1e-6, atol=1e-8)


def test_steps_act_by_their_magnitude() -> None:
    assert positive(torch.tensor([-0.5, 0.0])).tolist() == pytest.approx([0.5, SMALLEST_STEP])
    assert float(first_step(torch.tensor(3.0), 7)) == pytest.approx(6.0 / 7**0.5)
    assert signed_range(4) == (-8, 7)
    assert step_factor(16, 4) == 0.125
