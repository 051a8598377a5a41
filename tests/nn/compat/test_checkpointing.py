"""Activation checkpointing: a forward that backward runs again is the forward that was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import narrowgauge as ng
from narrowgauge.nn import SLOTS, Recipe, recipe

STOCHASTIC = recipe("stochastic", **dict.fromkeys(SLOTS, "e4m3fn/row+sr"))
DELAYED = recipe("delayed", **dict.fromkeys(SLOTS, "e4m3fn:delayed=2"))
RECIPES = ["fp8_row", "fp8_tensor", "mxfp8", "int8_switchback", STOCHASTIC, DELAYED]


class Net(nn.Module):
    """Two checkpointed parts, the second of which uses a layer twice, and one that is not checkpointed."""

    def __init__(self, way: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24))
        self.second, self.last, self.way = nn.Linear(24, 24), nn.Linear(24, 4), way

    def twice(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.relu(self.second(x))))

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.first, self.twice):
            x = x + (part(x) if self.way is None else self.way(part, x))
        return self.last(x)


def reentrant(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=True)


def plain(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=False)


def nested(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(lambda y: checkpoint(part, y, use_reentrant=False), x, use_reentrant=False)


def train(model: nn.Module, steps: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of some steps, the weights moving."""
    generator = torch.Generator().manual_seed(3)
    outputs, grads = [], []
    for _ in range(steps):
        model.zero_grad()
        y = model(torch.randn(10, 24, generator=generator, requires_grad=True))
        y.square().mean().backward()
        outputs.append(y.detach())
        grads += [p.grad.clone() for p in model.parameters()]
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    return outputs, grads


@pytest.mark.parametrize("way", [reentrant, plain, nested], ids=lambda way: way.__name__)
@pytest.mark.parametrize("chosen", RECIPES, ids=lambda chosen: getattr(chosen, "name", chosen))
def test_gradients_are_those_without_checkpoints_bit_for_bit(chosen: object, way: Callable[..., Tensor]) -> None:
    expected = train(ng.convert(Net(), chosen))
    actual = train(ng.convert(Net(way), chosen))
    for one, other in zip(actual, expected, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("chosen", [STOCHASTIC, DELAYED], ids=lambda chosen: chosen.name)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_two_forwards_before_one_backward_are_both_repeated(use_reentrant: bool, chosen: Recipe) -> None:
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = ng.convert(nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))), chosen)
        total = torch.zeros(())
        for seed in (1, 2):
            x = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True)
            y = checkpoint_sequential(model, 2, x, use_reentrant=use_reentrant) if checkpointed else model(x)
            total = total + y.square().mean()
        total.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *grads))


def test_draws_differ_between_steps() -> None:
    model = ng.convert(Net(plain), STOCHASTIC)
    x = torch.randn(10, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    grads = []
    for _ in range(2):
        model.zero_grad()
        model(x).square().mean().backward()
        grads.append(model.first[0].weight.grad.clone())
    assert not torch.equal(*grads)
