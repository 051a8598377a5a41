"""What layers under a recipe share: recipes that follow each other, copies, forwards that are run again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import narrowgauge as ng
from narrowgauge.nn import QuantLinear, Recipe, recipe
from narrowgauge.nn.layer import PARTS, install_recipe, mapped_weight

T, K = 12, 16
STOCHASTIC = recipe("stochastic", every="e4m3fn/row+sr")
DELAYED = recipe("delayed", every="e4m3fn:delayed=2")
BOTH = recipe("both", every="e4m3fn:hindsight=0.5+sr")
CHOSEN = pytest.mark.parametrize("chosen", [STOCHASTIC, DELAYED, BOTH], ids=lambda chosen: chosen.name)


def inputs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    # Of different sizes, so that a scale of another call would be seen.
    return [(4.0**i * torch.randn(T, K, generator=generator)).requires_grad_() for i in range(count)]


def test_nothing_of_an_earlier_recipe_stays() -> None:
    layer = QuantLinear(K, K, recipe="tetrajet_qema")
    install_recipe(layer, ng.nn.get_recipe("fp8_delayed"))
    assert "weight_map" not in layer._modules
    assert set(layer.scales) == {"x_fprop", "w_fprop", "g_dgrad", "w_dgrad", "g_wgrad", "x_wgrad"}
    install_recipe(layer, ng.nn.get_recipe("fp8_row"))
    assert not any(part in layer._modules for part in PARTS)
    assert not dict(layer.named_buffers())
    assert torch.equal(mapped_weight(layer, layer.weight), layer.weight)


@CHOSEN
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_forwards_before_their_backwards_are_repeated_in_any_order(chosen: Recipe, order: tuple[int, ...]) -> None:
    gradients = []
    for repeated in (False, True):
        torch.manual_seed(0)
        layer = QuantLinear(K, K, recipe=chosen)
        xs = inputs(3)
        ys = [checkpoint(layer, x, use_reentrant=False) if repeated else layer(x) for x in xs]
        for i in order:
            ys[i].square().sum().backward()
        gradients.append([x.grad for x in xs] + [layer.weight.grad, *layer.buffers()])
    assert all(map(torch.equal, *gradients))


@CHOSEN
def test_a_layer_used_three_times_in_one_checkpoint(chosen: Recipe) -> None:
    gradients = []
    for repeated in (False, True):
        torch.manual_seed(0)
        layer, (x,) = QuantLinear(K, K, recipe=chosen), inputs(1)

        def part(x: Tensor, layer: nn.Module = layer) -> Tensor:
            return layer(torch.tanh(layer(3.0 * layer(x))))

        for _ in range(2):
            y = checkpoint(part, x, use_reentrant=False) if repeated else part(x)
            y.square().sum().backward()
        gradients.append([x.grad, layer.weight.grad, *layer.buffers()])
    assert all(map(torch.equal, *gradients))


@CHOSEN
def test_copies_go_on_by_themselves(chosen: Recipe) -> None:
    layer, (x, y) = QuantLinear(K, K, recipe=chosen, seed=5), inputs(2)
    layer(x).sum().backward()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        twin = copy.deepcopy(layer)
        assert torch.equal(other(y), twin(y))
        result = checkpoint(other, y, use_reentrant=False)
        result.sum().backward()
        assert torch.equal(result, twin(y))


def test_a_first_forward_inside_of_backward_is_refused() -> None:
    layer = QuantLinear(K, K, recipe=STOCHASTIC)

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return layer(g)

    with pytest.raises(LookupError, match="no forward came before"):
        Backward.apply(torch.zeros(T, K, requires_grad=True)).sum().backward()
