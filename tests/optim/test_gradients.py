"""Norms of gradients and what is not finite in them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim.gradients import check_gradients, global_norm


def parameter(gradient: Tensor) -> nn.Parameter:
    p = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
    p.grad = gradient
    return p


@pytest.mark.parametrize("wait", [True, False])
def test_norm_is_torchs(wait: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    params = [parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (), (0,), (100,))]
    params.append(parameter(torch.randn(7, generator=generator).bfloat16()))
    expected = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None and p.grad.numel()])
    torch.testing.assert_close(global_norm(params, wait), expected.float(), rtol=1e-3, atol=0.0)


def test_elements_that_are_not_finite_do_not_count() -> None:
    params = [parameter(torch.tensor([3.0, float("nan")])), parameter(torch.tensor([float("-inf"), 4.0]))]
    assert global_norm(params, True) == 5.0
    params.append(parameter(torch.tensor([12.0])))
    assert global_norm(params, True) == 13.0
    assert global_norm(params, False) == 12.0  # a captured step leaves out the whole tensor


def test_norms_that_overflow_in_float32_come_out_where_it_may_look() -> None:
    assert global_norm([parameter(torch.full((4,), 1e30))], True) == pytest.approx(2e30)


def test_norm_of_nothing_is_zero() -> None:
    assert global_norm([nn.Parameter(torch.ones(2))], True) == 0.0
    assert not math.isnan(float(global_norm([parameter(torch.zeros(0))], True)))


def test_raise_names_the_parameter_and_counts() -> None:
    first, second = parameter(torch.tensor([1.0, float("nan"), float("inf")])), parameter(torch.tensor([float("nan")]))
    group = {"params": [first, second], "nonfinite": "raise", "param_names": ["a.weight", "b.weight"]}
    with pytest.raises(FloatingPointError, match=r"2 elements of 'a.weight' are not finite, and of 1 other"):
        check_gradients([(group, [first, second])])
    check_gradients([({**group, "nonfinite": "skip"}, [first, second])])
    check_gradients([(group, [parameter(torch.zeros(0)), parameter(torch.ones(3))])])
