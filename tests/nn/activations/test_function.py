"""What the autograd function saves, and how its output is computed again."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from narrowgauge.kernels import quantize
from narrowgauge.nn.activations import operations
from narrowgauge.nn.activations.function import apply, recompute_of

K = 64
NORM = operations.RMSNorm((K,), 1e-5)


def norm_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, K, generator=generator), torch.rand(K, generator=generator)
    return x.requires_grad_(), weight.requires_grad_()


def test_saved_are_codes_scales_and_the_parameter_itself() -> None:
    x, weight = norm_inputs()
    y = apply(NORM, "int8/1x32", x, weight)
    codes, scale, outer, parameter = y.grad_fn.saved_tensors
    assert codes.nbytes == 9 * K
    assert scale.shape == (9, 2)
    assert outer.nbytes == 4
    assert parameter is weight


def test_without_gradients_nothing_is_compressed() -> None:
    x, weight = norm_inputs()
    with torch.no_grad():
        assert apply(NORM, "int8/1x32", x, weight).grad_fn is None
    assert apply(NORM, "int8/1x32", x.detach(), weight.detach()).grad_fn is None


def test_output_again_is_the_operation_at_the_restored_input() -> None:
    x, weight = norm_inputs()
    y = apply(NORM, "int8/1x32", x, weight)
    again = recompute_of(y.grad_fn)
    assert again is not None
    assert again is recompute_of(y.grad_fn)
    again.readers = 2
    first, second = again.value(), again.value()
    assert first is second
    assert torch.equal(first, NORM(quantize(x, "int8/1x32").dequantize(), weight.detach()))
    assert again.value() is not first  # after the last reader it is let go


def test_other_nodes_cannot_be_computed_again() -> None:
    x, _ = norm_inputs()
    assert recompute_of((x * 2).grad_fn) is None
    assert recompute_of(None) is None


def test_checkpointed_operation_cannot_be_computed_again_and_keeps_nothing() -> None:
    x, weight = norm_inputs()
    y = checkpoint(lambda x: apply(NORM, "int8/1x32", x, weight) * 1, x, use_reentrant=False)
    node = y.grad_fn.next_functions[0][0]
    gc.collect()
    assert [ref() for ref in node.kept[:3]] == [None, None, None]
    assert recompute_of(node) is None


def test_parameter_changed_in_place_cannot_be_used_to_compute_again() -> None:
    x, weight = norm_inputs()
    again = recompute_of(apply(NORM, "int8/1x32", x, weight).grad_fn)
    assert again is not None
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        again.value()


@pytest.mark.parametrize("changed", ["input", "parameter"])
def test_backward_after_a_change_in_place_is_refused_as_by_autograd(changed: str) -> None:
    x, weight = norm_inputs()
    hidden = x * 1
    y = apply(NORM, "int8/1x32", hidden, weight)
    with torch.no_grad():
        (hidden if changed == "input" else weight).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_backward_twice_needs_the_graph_kept_and_derivatives_of_gradients_are_refused() -> None:
    x, weight = norm_inputs()
    y = apply(NORM, "int8/1x32", x, weight).square().sum()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y, x, retain_graph=True)[0])
    (dx,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_measured_maximum_is_that_of_the_output() -> None:
    x, weight = norm_inputs()
    y = apply(NORM, "int8/1x32", x, weight, measure=True)
    assert y.grad_fn.amax == y.abs().max()
    assert torch.equal(y, apply(NORM, "int8/1x32", x, weight))
