"""What every recipe has to hold: its layer's contract, and a loss that falls."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from narrowgauge.nn import QuantLinear, Recipe, get_recipe
from narrowgauge.nn.grid_weights import GridWeights
from narrowgauge.numerics import check_module


def assert_contract(recipe: str | Recipe, **options: Any) -> None:
    """The three products are those of the slots, and stochastic ones are unbiased."""
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, recipe=recipe).without_maps()
    report = check_module(layer, seeds=24, **options)
    assert report.ok, report.table()


def losses(recipe: str | Recipe, steps: int = 6) -> list[float]:
    """The losses of a small model under the recipe."""
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(32, 64, recipe=recipe), nn.Tanh(), QuantLinear(64, 4, recipe=recipe))
    grid = None if get_recipe(recipe).update is None else GridWeights(model)
    x, y = torch.randn(64, 32), torch.randn(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    seen = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if grid is not None:
            grid.round()
        seen.append(float(loss.detach()))
    return seen


def assert_learns(recipe: str | Recipe) -> None:
    """The loss is finite and falls."""
    seen = losses(recipe)
    assert torch.isfinite(torch.tensor(seen)).all(), seen
    assert seen[-1] < 0.97 * seen[0], seen
