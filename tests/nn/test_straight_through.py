"""straight_through: values forward, the multiplied gradient backward."""

from __future__ import annotations

import torch

from narrowgauge.nn.straight_through import high_precision, straight_through


def test_values_forward_and_gradient_times_multiplier_backward() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    values, upstream, mask = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4)
    y = straight_through(x, values, mask)
    assert torch.equal(y, values)
    y.backward(upstream)
    assert torch.equal(x.grad, upstream * mask)


def test_without_a_multiplier_the_gradient_passes() -> None:
    x = torch.randn(5, requires_grad=True)
    upstream = torch.randn(5)
    straight_through(x, torch.zeros(5)).backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_only_float64_stays_wide() -> None:
    assert high_precision(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert high_precision(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_wide_multiplier_leaves_the_gradient_its_dtype() -> None:
    x = torch.randn(6, dtype=torch.bfloat16, requires_grad=True)
    upstream, shape = torch.randn(6, dtype=torch.bfloat16), torch.rand(6)
    straight_through(x, torch.zeros(6, dtype=torch.bfloat16), shape).backward(upstream)
    assert torch.equal(x.grad, (upstream.float() * shape).to(torch.bfloat16))
