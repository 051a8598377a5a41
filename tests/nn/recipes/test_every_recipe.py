"""What holds for every recipe that ships: it runs on each device, in half precision, in evaluation, and resumes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.nn import RECIPES, QuantLinear

T, K, N = 24, 64, 40
NAMES = list(RECIPES)


def layer_and_input(name: str, dtype: torch.dtype = torch.float32) -> tuple[QuantLinear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = QuantLinear(K, N, recipe=name, seed=3)
    x, g = torch.randn(T, K), 1e-4 * torch.randn(T, N)  # as small as gradients are: static scales are made for them
    return layer.to(dtype), x.to(dtype).requires_grad_(), g.to(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_those_of_linear_as_far_as_the_bits_go(name: str) -> None:
    layer, x, g = layer_and_input(name)
    y = layer(x)
    y.backward(g)
    # Behind a map the layer is that of the mapped weight.
    behind = layer.without_maps()
    z = x.detach().clone().requires_grad_()
    expected = nn.functional.linear(z, behind.weight, behind.bias)
    expected.backward(g)
    narrowest = min(scheme_bits(layer), default=32)
    limit = 0.98 if narrowest >= 8 else 0.93 if narrowest >= 5 else 0.7
    if layer.recipe.weight_map is None and layer.recipe.input_map is None:
        for actual, right in ((y, expected), (x.grad, z.grad), (layer.weight.grad, behind.weight.grad)):
            assert actual is not None
            assert right is not None
            similarity = nn.functional.cosine_similarity(actual.detach().flatten(), right.detach().flatten(), dim=0)
            assert float(similarity) > limit
    assert all(torch.isfinite(t).all() for t in (y, x.grad, layer.weight.grad, layer.bias.grad))


def scheme_bits(layer: QuantLinear) -> list[int]:
    """Bits of the elements of each quantised slot."""
    schemes = (getattr(scheme, "scheme", scheme) for scheme in layer.recipe.slots.values() if scheme is not None)
    return [scheme.element.bits for scheme in schemes]


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_has_the_dtypes_of_linear(name: str) -> None:
    layer, x, g = layer_and_input(name, torch.bfloat16)
    y = layer(x)
    y.backward(g)
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == torch.bfloat16
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_changes_nothing_and_repeats_itself(name: str) -> None:
    layer, x, _ = layer_and_input(name)
    layer(x)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.eval()
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x))
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_made_from_the_state_goes_on_with_the_same_bits(name: str) -> None:
    layer, x, g = layer_and_input(name)
    for _ in range(2):
        layer(x).backward(g)
    copy, _, _ = layer_and_input(name)
    copy.load_state_dict(layer.state_dict())
    layer.zero_grad()
    first, second = layer(x), copy(x)
    assert torch.equal(first, second)
    first.backward(g)
    second.backward(g)
    assert torch.equal(layer.weight.grad, copy.weight.grad)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_cuda_agrees_with_the_cpu(name: str, device: torch.device) -> None:
    layer, x, g = layer_and_input(name)
    expected = layer(x)
    expected.backward(g)
    other, _, _ = layer_and_input(name)
    other = other.to(device)
    z = x.detach().to(device).requires_grad_()
    actual = other(z)
    actual.backward(g.to(device))
    for a, b in ((actual, expected), (z.grad, x.grad), (other.weight.grad, layer.weight.grad)):
        assert a is not None
        assert b is not None
        assert float((a.cpu() - b).norm() / b.norm()) < 1e-3
