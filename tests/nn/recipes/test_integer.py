"""Integer recipes: the contract of each layer, and each method's trick, on and off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narrowgauge.formats.operand import operand_reference
from narrowgauge.formats.slots import GEMMS
from narrowgauge.formats.stages import Draw
from narrowgauge.nn import RECIPES, QuantLinear, recipe
from narrowgauge.nn.grid_weights import GridWeights
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.recipes import integer
from narrowgauge.nn.recipes.integer import statquant
from narrowgauge.numerics import check_module, sqnr_db

NAMES = [r.name for r in integer.RECIPES]
STATQUANT = [name for name in NAMES if name.startswith("statquant")]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STATQUANT])
def test_layers_keep_the_contract(name: str) -> None:
    torch.manual_seed(0)
    # The rounding of dX has a test of its own: it adds to the variance that operands give to a product.
    chosen = replace(RECIPES[name], out_dgrad=None)
    report = check_module(QuantLinear(72, 40, recipe=chosen), seeds=24)
    assert report.ok, report.table()


def run(layer: QuantLinear, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """The three products of a call."""
    leaf = x.clone().requires_grad_()
    layer.weight.grad = None
    y = layer(leaf)
    y.backward(g)
    assert leaf.grad is not None
    assert layer.weight.grad is not None
    return {"fprop": y.detach(), "dgrad": leaf.grad, "wgrad": layer.weight.grad}


def tensors(tokens: int = 33, seed: int = 0) -> tuple[Tensor, Tensor]:
    """X [T, 72] and dY [T, 40] of rows of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(1.5 * torch.randn(tokens, 1, generator=generator))
    return torch.randn(tokens, 72, generator=generator), torch.randn(tokens, 40, generator=generator) * sizes


@pytest.mark.parametrize("tokens", [1, 2, 13, 33])
@pytest.mark.parametrize("name", STATQUANT)
def test_products_are_those_of_the_dequantised_operands(name: str, tokens: int) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, bias=False, recipe=name)
    x, g = tensors(tokens)
    w = layer.weight.detach()
    sources = {"x_fprop": x, "w_fprop": w, "g_dgrad": g, "w_dgrad": w.t(), "g_wgrad": g.t(), "x_wgrad": x.t()}
    draws = layer.upcoming()
    results = run(layer, x, g)
    operands: dict[str, Any] = {
        slot: operand_reference(source.contiguous().numpy(), layer.recipe.slots[slot] or "fp32", draws[slot][0])
        for slot, source in sources.items()
    }
    for gemm, (first, second) in GEMMS.items():
        a, b = operands[first], operands[second]
        # What is added afterwards, the least value of a range, is as large as the range: errors relative to that.
        bound = 4e-7 * np.abs(a).max() * np.abs(b).max() * max(a.shape[1], 4)
        assert np.abs(results[gemm].double().numpy() - a @ b.T).max() <= bound, gemm


@pytest.mark.parametrize("name", STATQUANT)
def test_gradients_have_no_bias(name: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, bias=False, recipe=name)
    x, g = tensors()
    calls = [run(layer, x, g) for _ in range(200)]
    w = dequantized(make_operand(layer.weight.detach().t(), "uint8+affine", Draw()), torch.float32)
    x_back = dequantized(make_operand(x.t(), "uint8+affine", Draw()), torch.float32)
    for gemm, right in (("dgrad", g @ w.t()), ("wgrad", g.t() @ x_back.t())):
        samples = torch.stack([call[gemm] for call in calls])
        error = samples.mean(0) - right
        z = error / (samples.std(0) / 200**0.5 + 1e-5 * right.abs().max())
        assert float(z.abs().max()) < 6.0
        gain = float((samples.mean(0) * right).sum() / right.square().sum())
        assert gain == pytest.approx(1.0, abs=5e-3)


def test_dgrad_and_wgrad_are_drawn_independently() -> None:
    x = torch.eye(40)
    layer = QuantLinear(40, 40, bias=False, recipe=recipe("both", g="uint4+sr+affine"))
    with torch.no_grad():
        layer.weight.copy_(torch.eye(40))
    g = torch.randn(40, 40)
    result = run(layer, x, g)
    first, second = result["dgrad"] - g, result["wgrad"].t() - g  # the two roundings of dY themselves
    correlation = float((first * second).sum() / (first.norm() * second.norm()))
    assert abs(correlation) < 0.8  # both know between which codes a value lies
    assert not torch.equal(first, second)


def dgrad_variance(name: str) -> float:
    """Of dX, dY having two large rows among small ones."""
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, bias=False, recipe=name)
    x, g = torch.randn(64, 72), 0.01 * torch.randn(64, 40)
    g[[3, 17]] *= 1000.0
    return float(torch.stack([run(layer, x, g)["dgrad"] for _ in range(60)]).var(0).sum())


@pytest.mark.parametrize("suffix", ["", "5", "4"])
def test_statquant_variance_falls_from_ptq_to_psq_to_bhq(suffix: str) -> None:
    ptq, psq, bhq = (dgrad_variance(f"statquant_{kind}{suffix}") for kind in ("ptq", "psq", "bhq"))
    assert ptq > 10.0 * psq
    assert psq > 10.0 * bhq


def test_statquant_variance_grows_fourfold_with_each_bit_less() -> None:
    eight, five, four = (dgrad_variance(name) for name in ("statquant_psq", "statquant_psq5", "statquant_psq4"))
    assert five / eight == pytest.approx((255 / 31) ** 2, rel=0.2)
    assert four / five == pytest.approx((31 / 15) ** 2, rel=0.2)


def test_statquant_parameters() -> None:
    assert str(statquant("psq", 6).g_dgrad) == "uint6/row+sr+affine"
    assert str(statquant("bhq", 6).g_wgrad) == "uint8+sr+affine"
    with pytest.raises(ValueError, match="kind"):
        statquant("row")
    with pytest.raises(ValueError, match="bits"):
        statquant("ptq", 9)


def wgrad_error(chosen: Any, tokens: int = 2048) -> float:
    """Relative error of dW."""
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, bias=False, recipe=chosen)
    x, g = torch.randn(tokens, 72), torch.randn(tokens, 40) * torch.exp(2.0 * torch.randn(tokens, 1))
    right = g.t() @ x
    return float((run(layer, x, g)["wgrad"] - right).norm() / right.norm())


def test_switchback_keeps_noise_out_of_the_weight_gradient() -> None:
    switchback = RECIPES["int8_switchback"]
    assert wgrad_error(switchback) < 1e-6
    assert wgrad_error(recipe("no switch", every="int8/row")) > 0.01


def test_bifurcation_keeps_the_gradient_of_wgrad_exact() -> None:
    sbm = RECIPES["int8_sbm"]
    whole = replace(sbm, g_wgrad=sbm.g_dgrad)
    assert wgrad_error(replace(sbm, x_wgrad=None)) < 1e-6
    assert wgrad_error(sbm) < 0.012  # that of int8 activations alone
    assert wgrad_error(whole) > 8.0 * wgrad_error(sbm)


def test_jetfire_leaves_results_on_int8_tiles() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 64, bias=False, recipe="int8_jetfire")
    x, g = torch.randn(96, 64), torch.randn(96, 64)
    on, off = run(layer, x, g), run(_with(layer, out_fprop=None, out_dgrad=None), x, g)
    for gemm, tiled in (("fprop", True), ("dgrad", True), ("wgrad", False)):
        for results, expected in ((on, tiled), (off, False)):
            tiles = results[gemm].reshape(-1, 32, 2, 32)
            codes = tiles / (tiles.abs().amax(dim=(1, 3), keepdim=True) / 127.0)
            assert (float((codes - codes.round()).abs().max()) < 1e-3) == expected


def test_jetfire_rounds_dx_stochastically() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 64, bias=False, recipe=replace(RECIPES["int8_jetfire"], g_dgrad=None))
    x, g = torch.randn(32, 64), torch.randn(32, 64)
    samples = torch.stack([run(layer, x, g)["dgrad"] for _ in range(300)])
    right = run(_with(layer, out_dgrad=None), x, g)["dgrad"]
    tiles = right.reshape(32, 2, 32).abs().amax(dim=(0, 2)).repeat_interleave(32)
    step = tiles / 127.0
    # A rounding has at most half a step as its standard deviation.
    assert float(((samples.mean(0) - right) / step).abs().max()) < 5.5 * 0.5 / 300**0.5
    assert float((samples.std(0) / step).mean()) > 0.3


def _with(layer: QuantLinear, **changes: Any) -> QuantLinear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight = layer.weight
    return QuantLinear.from_linear(plain, replace(layer.recipe, **changes))


@pytest.mark.parametrize(("name", "outlier"), [("int8_fallback", 3e3), ("fp8_fallback", 3e5)])
def test_fallback_rescues_activations_with_outliers(name: str, outlier: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(640, 256)
    x[5, 17], x[400, 200] = outlier, outlier / 2  # two of ten tiles
    usual = x.abs() < 100
    chosen = RECIPES[name]
    quality = {}
    for label, text in (("on", str(chosen.x_fprop)), ("off", str(chosen.x_fprop).partition("+")[0])):
        values = dequantized(make_operand(x, text, Draw()), torch.float32)
        quality[label] = float(sqnr_db(values[usual], x[usual]))
    assert quality["on"] > quality["off"] + 10.0


def test_hindsight_takes_the_range_of_earlier_steps() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, recipe="int8_hindsight")
    x, g = torch.randn(64, 72), torch.randn(64, 40)
    run(layer, x, g)
    first = x.abs().max().item() / 127
    assert layer.upcoming()["x_fprop"][1] == pytest.approx(first, rel=1e-6)
    run(layer, 3.0 * x, g)
    moved = 0.9 * first + 0.1 * 3.0 * first
    assert layer.upcoming()["x_fprop"][1] == pytest.approx(moved, rel=1e-5)
    clipped = run(layer, 3.0 * x, g)["fprop"]
    right = run(_with(QuantLinear.from_linear(layer, "int8_sbm")), 3.0 * x, g)["fprop"]
    assert float((clipped - right).norm() / right.norm()) > 0.1  # three times what it has been is clipped


def test_ui8_clips_for_less_error() -> None:
    torch.manual_seed(0)
    g = torch.distributions.StudentT(3.0).sample((64, 512))
    clipped, whole = (
        float(sqnr_db(dequantized(make_operand(g, text, Draw(1, 2)), torch.float32), g))
        for text in ("int8:mse+sr", "int8+sr")
    )
    assert clipped > whole + 0.5


def test_niti_grid_and_scales_are_powers_of_two() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(72, 40, bias=False, recipe="niti")
    GridWeights(nn.Sequential(layer)).round()
    result = run(layer, torch.randn(33, 72), torch.randn(33, 40))
    for values in (layer.weight.detach(), result["fprop"], result["dgrad"]):
        _, exponent = torch.frexp(values.abs().max())
        step = 2.0 ** (int(exponent) - 7)
        assert any(torch.equal(values, (values / s).round() * s) for s in (step, 2 * step))


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_make_the_loss_smaller(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(QuantLinear(16, 32, recipe=name), nn.Tanh(), QuantLinear(32, 4, recipe=name))
    grid = GridWeights(model) if RECIPES[name].update is not None else None
    x, y = torch.randn(64, 16), torch.randn(64, 4)
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
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]
