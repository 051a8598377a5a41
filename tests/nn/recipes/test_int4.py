"""INT4 in every product: the contract behind the maps, two planes, and sampling that has no bias."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from narrowgauge.nn import RECIPES, QuantLinear
from narrowgauge.numerics import check_module

INT4 = RECIPES["int4"]


def test_layer_behind_the_maps_keeps_the_contract() -> None:
    torch.manual_seed(0)
    # Sampling has a test of its own: it leaves rows out, which no bound on roundings allows.
    report = check_module(QuantLinear(72, 40, recipe=replace(INT4, sample=None)).without_maps(), seeds=24)
    assert report.ok, report.table()


def gradients(layer: QuantLinear, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    layer.weight.grad = None
    layer(leaf).backward(g)
    assert leaf.grad is not None
    assert layer.weight.grad is not None
    return leaf.grad, layer.weight.grad


def samples_of(sample: float | None, calls: int = 300) -> tuple[list[Tensor], list[Tensor]]:
    """(dX and dW of each call, what both must be on average)."""
    torch.manual_seed(0)
    x, g = torch.randn(64, 32), torch.randn(64, 16) * torch.exp(torch.randn(64, 1))
    layer = QuantLinear(32, 16, bias=False, recipe=replace(INT4, sample=sample)).without_maps()
    drawn = [gradients(layer, x, g) for _ in range(calls)]
    return [torch.stack(part) for part in zip(*drawn, strict=True)], [g @ layer.weight.detach(), g.t() @ x]


def test_gradients_have_no_bias_with_half_of_the_rows() -> None:
    for samples, right in zip(*samples_of(0.5), strict=True):
        z = (samples.mean(0) - right) / (samples.std(0) / 300**0.5 + 1e-4 * right.abs().max())
        assert float(z.abs().max()) < 6.0


def test_half_of_the_rows_cost_little_and_a_tenth_more() -> None:
    every, half, tenth = (samples_of(share, 60) for share in (None, 0.5, 0.1))
    for index in range(2):
        size = float(every[1][index].square().sum())
        plain, some, few = (float(found[0][index].var(0).sum()) / size for found in (every, half, tenth))
        assert plain < some < few
        assert some < 0.1
        assert few > 1.0


def test_gradients_pass_the_maps() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(32, 16, recipe="int4")
    gradients(layer, torch.randn(8, 32), torch.randn(8, 16))
    for name in ("weight_map", "input_map"):
        step = getattr(layer, name).step
        assert step.grad is not None
        assert float(step.grad.abs()) > 0


def test_a_few_steps_make_the_loss_smaller() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(16, 32, recipe="int4"), nn.Tanh(), QuantLinear(32, 4, recipe="int4"))
    x, y = torch.randn(64, 16), torch.randn(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
