"""AMP: what comes out of a converted model under autocast has the dtypes of the plain one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import narrowgauge as ng

DTYPES = (torch.bfloat16, torch.float16)


def model_and_input() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 8))
    return model, torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


def run(
    model: nn.Module, x: torch.Tensor, dtype: torch.dtype, scale: float = 1.0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", dtype):
        y = model(x)
    (scale * y.float().square().mean()).backward()
    return y, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("recipe", ["fp8_row", "fp8_deepseek", "mxfp8", "int8_switchback"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_and_gradients_have_the_dtypes_of_the_plain_model(recipe: str, dtype: torch.dtype) -> None:
    plain, x = model_and_input()
    model = ng.convert(copy.deepcopy(plain), recipe)
    expected, grads = run(plain, x, dtype)
    actual, mine = run(model, x, dtype)
    assert actual.dtype == expected.dtype == dtype
    for one, other in zip(mine, grads, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_are_quantised_from_the_dtype_of_autocast(dtype: torch.dtype) -> None:
    model, x = model_and_input()
    layer = ng.convert(model, "fp8_row")[0]
    with torch.autocast("cpu", dtype):
        inside = layer(x)
    rounded = copy.deepcopy(layer)
    assert torch.equal(inside, rounded(x.to(dtype)).to(dtype))


def test_a_scaled_loss_scales_the_gradients() -> None:
    """Scales of float8 rows follow the gradients, so a power of two in the loss changes exponents alone."""
    model, x = model_and_input()
    ng.convert(model, "fp8_row")
    _, plain = run(model, x, torch.float16)
    plain = [g.clone() for g in plain]
    _, scaled = run(model, x, torch.float16, 2.0**10)
    for one, other in zip(scaled, plain, strict=True):
        torch.testing.assert_close(one / 2**10, other, rtol=0.05, atol=1e-4)


def test_gradients_accumulate_over_batches() -> None:
    """Under rows of its own each token's forward is the same in any batch, and dW is the sum over the batches."""
    model, x = model_and_input()
    ng.convert(model, "fp8_row")
    parts = []
    for half in x.chunk(2):
        model.zero_grad()
        model(half).square().sum().backward()
        parts.append([p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    for half in x.chunk(2):
        model(half).square().sum().backward()
    for p, one, other in zip(model.parameters(), *parts, strict=True):
        assert torch.equal(p.grad, one + other)
    accumulated = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for p, g in zip(model.parameters(), accumulated, strict=True):
        assert nn.functional.cosine_similarity(p.grad.flatten(), g.flatten(), dim=0) > 0.999
