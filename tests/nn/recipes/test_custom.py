"""Recipes in other number systems, and in fixed point: the contract of each layer, and what each one is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.formats.stages import Draw
from narrowgauge.nn import QuantLinear, get_recipe, recipe
from narrowgauge.nn.grid_weights import GridWeights
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.recipes import custom, fixed_point
from narrowgauge.numerics import check_module, sqnr_db

NAMES = [r.name for r in (*custom.RECIPES, *fixed_point.RECIPES)]


@pytest.mark.parametrize("name", NAMES)
def test_layers_keep_the_contract(name: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, recipe=name).without_maps()
    report = check_module(layer, seeds=24)
    assert report.ok, report.table()


@pytest.mark.parametrize("name", NAMES)
def test_three_steps_make_the_loss_smaller(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(16, 32, recipe=name), nn.Tanh(), QuantLinear(32, 4, recipe=name))
    grid = GridWeights(model) if get_recipe(name).update is not None else None
    x, y = torch.randn(64, 16).clamp(-1, 1), torch.randn(64, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if grid is not None:
            grid.round()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(torch.tensor(losses)))
    assert min(losses[-3:]) < losses[0]


def _sqnr(text: str, x: torch.Tensor) -> float:
    return float(sqnr_db(dequantized(make_operand(x, text, Draw()), torch.float32), x))


def test_s2fp8_holds_tensors_that_e5m2_cannot() -> None:
    x = torch.randn(64, 64) * 1e-8
    assert _sqnr("e5m2:static=1.0", x) < 1.0
    assert _sqnr("e5m2:static=1.0+s2", x) > 20.0


def test_hif8_needs_no_scale_where_e4m3_does() -> None:
    x = torch.randn(64, 64) * 3e-4
    assert _sqnr("hif8:static=1.0", x) > 18.0
    assert _sqnr("e4m3fn:static=1.0", x) < 1.0


def test_micro_exponents_hold_small_neighbours_better() -> None:
    x = torch.randn(64, 64)
    x[:, ::16] *= 30.0
    assert _sqnr("mx9", x) > _sqnr("mx6", x) + 10.0


def test_gupta_without_stochastic_rounding_loses_small_steps() -> None:
    torch.manual_seed(0)
    moved = {}
    for text in ("q1.14:static=1.0+sr", "q1.14:static=1.0"):
        model = nn.Sequential(QuantLinear(64, 64, bias=False, recipe="gupta16"))
        with torch.no_grad():
            model[0].weight.fill_(0.5)
        grid = GridWeights(model, text)
        for _ in range(40):
            with torch.no_grad():
                model[0].weight += 1e-5  # a sixth of the grid's step
            grid.round()
        moved[text] = float(model[0].weight.detach().mean()) - 0.5
    assert moved["q1.14:static=1.0"] == 0.0
    assert moved["q1.14:static=1.0+sr"] == pytest.approx(40e-5, rel=0.05)


def test_dynamic_fixed_point_follows_the_data() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 64, bias=False, recipe=recipe("dfp", x_fprop="int10:overflow=0.0001", w_fprop="int10"))
    x = torch.randn(32, 64)
    first = layer(x)
    for _ in range(12):
        layer(64 * x)
    error = (layer(64 * x) - 64 * nn.functional.linear(x, layer.weight)).norm()
    assert float((error / (64 * first).norm()).detach()) < 0.05


def test_autoflex_predicts_the_next_exponent() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 64, bias=False, recipe="flexpoint16")
    x = torch.randn(32, 64)
    for step in range(20):
        y = layer(x * (1.0 + 0.2 * step))
    expected = nn.functional.linear(x * 4.8, layer.weight)
    assert float(((y - expected).norm() / expected.norm()).detach()) < 1e-3
