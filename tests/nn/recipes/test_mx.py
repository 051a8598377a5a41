"""MX recipes: the contract of each layer, and what 3/4, rotations, scale rules and double quantisation are for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats.operand import parse_operand
from narrowgauge.formats.stages import Draw
from narrowgauge.nn import QuantLinear, Recipe, get_recipe, recipe
from narrowgauge.nn.operand import dequantized, make_operand, restored
from narrowgauge.nn.recipes import mx
from narrowgauge.nn.stages.scales import rms_scales
from narrowgauge.numerics import check_module, sqnr_db
from recipe_layers import assert_contract, assert_learns

NAMES = [r.name for r in mx.RECIPES]


@pytest.mark.parametrize("name", NAMES)
def test_layers_keep_the_contract(name: str) -> None:
    assert_contract(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    assert_learns(name)


def test_published_slots() -> None:
    unbiased = "mxfp4:rceil+sr+rht64fresh+gain0.75"
    slots = [None if text is None else parse_operand(text) for text in get_recipe("mxfp4_rht_sr").texts]
    assert slots == [None, None, *[parse_operand(unbiased)] * 4]
    assert get_recipe("tetrajet").texts == ("mxfp4", "mxfp4", *["mxfp4+sr"] * 4)
    assert get_recipe("tetrajet").requantize
    assert get_recipe("mxfp6").texts[1:3] == ("mxfp6_e2m3", "mxfp6_e3m2")


def values(x: Tensor, text: str) -> Tensor:
    return restored(make_operand(x, text, Draw()), text, Draw(), x.shape[1], torch.float32)


def gain(text: str, calls: int = 40) -> tuple[float, float]:
    """<x, x̂> / <x, x> over many draws, and its standard error."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    gains = []
    for call in range(calls):
        draw = Draw(1, 16 * call, 16 * call + 9)
        turned = restored(make_operand(x, text, draw), text, draw, x.shape[1], torch.float64)
        gains.append(float((turned * x).sum() / (x * x).sum()))
    return float(np.mean(gains)), float(np.std(gains) / calls**0.5)


def test_three_quarters_takes_the_bias_away() -> None:
    plain, _ = gain("mxfp4:floor+sr+rht64fresh")
    scaled, error = gain("mxfp4:rceil+sr+rht64fresh+gain0.75")
    assert plain == pytest.approx(0.989, abs=0.002)
    assert abs(scaled - 1.0) < 5 * error + 1e-6
    assert error < 2e-4


def test_without_three_quarters_the_check_finds_a_biased_layer() -> None:
    torch.manual_seed(0)
    clipped = parse_operand("mxfp4:floor+sr+rht64fresh")
    bad = replace(get_recipe("mxfp4_rht_sr"), g_dgrad=clipped, w_dgrad=clipped)
    report = check_module(QuantLinear(128, 64, recipe=bad), seeds=48, dtypes=("float32",))
    assert [failure.kind for failure in report.failures] == ["biased stochastic rounding"]


def test_to_nearest_is_biased_and_stochastic_is_not() -> None:
    assert abs(gain("mxfp4:floor", 1)[0] - 1.0) > 0.004
    mean, error = gain("mxfp4+sr")
    assert abs(mean - 1.0) < 5 * error


def test_a_rotation_saves_what_an_outlier_takes() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 128)
    x[:, 7] = 40.0
    beside = (torch.arange(128) < 32) & (torch.arange(128) != 7)

    def error(text: str) -> float:
        return float((values(x, text) - x)[:, beside].norm())

    assert error("mxfp4+rht64fresh") < 0.7 * error("mxfp4")


def test_scales_that_do_not_clip() -> None:
    x = torch.randn(512, 32)
    floor, rceil = (values(x, f"mxfp4:{rule}") for rule in ("floor", "rceil"))
    largest = x.abs().argmax(1, keepdim=True)
    kept = [float((v.gather(1, largest) / x.gather(1, largest)).mean()) for v in (floor, rceil)]
    assert kept[0] < 0.96  # E2M1 at the floor scale loses up to a quarter of the largest value
    assert abs(kept[1] - 1.0) < 0.02


def _gradients(r: Recipe, x: Tensor, w: Tensor, g: Tensor, calls: int) -> tuple[Tensor, Tensor]:
    """Mean gradients of the input and of the weight over many calls."""
    layer = QuantLinear(x.shape[1], w.shape[0], bias=False, recipe=r)
    with torch.no_grad():
        layer.weight.copy_(w)
    total_x, total_w = torch.zeros_like(x), torch.zeros_like(w)
    for _ in range(calls):
        leaf = x.clone().requires_grad_()
        layer.weight.grad = None
        layer(leaf).backward(g)
        assert leaf.grad is not None
        assert layer.weight.grad is not None
        total_x += leaf.grad
        total_w += layer.weight.grad
    return total_x / calls, total_w / calls


def _case() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(64, 64), 0.1 * torch.randn(32, 64), torch.randn(64, 32)


def test_double_quantisation_gives_the_gradient_of_the_quantised_network() -> None:
    x, w, g = _case()
    base = get_recipe("tetrajet")
    mean = {name: _gradients(replace(base, requantize=on), x, w, g, 300) for name, on in (("on", True), ("off", False))}
    exact = g @ values(w, "mxfp4"), g.T @ values(x, "mxfp4")
    for index in (0, 1):
        scale = exact[index].norm()
        on, off = (float((mean[name][index] - exact[index]).norm() / scale) for name in ("on", "off"))
        assert on < 0.05
        assert off > 2 * on


def _forward(layer: QuantLinear, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def test_quartet_forward_is_the_product_of_rotated_codes() -> None:
    x, w, _ = _case()
    layer = QuantLinear(64, 32, bias=False, recipe="quartet")
    with torch.no_grad():
        layer.weight.copy_(w)
    text = get_recipe("quartet").texts[0]
    turned = [values(layer.input_map(m), text) for m in (x, w)]
    torch.testing.assert_close(_forward(layer, x), turned[0] @ turned[1].T)
    exact = x @ w.T
    assert float((_forward(layer, x) - exact).norm() / exact.norm()) < 0.2


def test_quartet_gradient_is_that_of_the_codes_masked_and_turned_back() -> None:
    x, w, g = _case()
    x[3] *= torch.where(torch.arange(64) == 5, 30.0, 1.0)
    base = get_recipe("quartet")
    high = replace(base, g_dgrad=None, w_dgrad=None, g_wgrad=None, x_wgrad=None)
    grad_x, grad_w = _gradients(high, x, w, g, 1)
    layer = QuantLinear(64, 32, bias=False, recipe=high)
    text = base.texts[0]
    turned: dict[str, Any] = {name: layer.input_map(m) for name, m in (("x", x), ("w", w))}
    codes = {name: values(m, text) for name, m in turned.items()}
    wanted = {"x": g @ codes["w"], "w": g.T @ codes["x"]}
    clipped = 0
    for name, actual in (("x", grad_x), ("w", grad_w)):
        spec = parse_operand(text)
        mask = turned[name].abs() < 6.0 * rms_scales(spec.stages[0], turned[name], spec.scheme)
        clipped += int((~mask).sum())
        # The rotation is its own inverse.
        torch.testing.assert_close(actual, layer.input_map(wanted[name] * mask), atol=1e-4, rtol=1e-4)
    assert clipped > 0


def test_quartet_mean_gradient_is_that_of_high_precision_backward() -> None:
    x, w, g = _case()
    base = get_recipe("quartet")
    high = replace(base, g_dgrad=None, w_dgrad=None, g_wgrad=None, x_wgrad=None)
    exact = _gradients(high, x, w, g, 1)
    for mean, right in zip(_gradients(base, x, w, g, 300), exact, strict=True):
        assert float((mean - right).norm() / right.norm()) < 0.06
        assert float((mean * right).sum() / right.square().sum()) == pytest.approx(1.0, abs=0.01)


def test_the_rms_scale_beats_the_largest_value_where_a_block_has_an_outlier() -> None:
    """Its aim: the least error of Gaussian blocks at all sizes."""
    torch.manual_seed(0)
    x = torch.randn(256, 256) * torch.exp2(torch.rand(256, 1))
    rms = sqnr_db(values(x, "e2m1fn/1x32:static=1.0+rms2.92247856").numpy(), x.numpy())
    released = sqnr_db(values(x, f"e2m1fn/1x32:static=1.0+rms{2.92247856 / 2**0.5}").numpy(), x.numpy())
    assert rms > released + 1.0


def test_mxfp6_lies_between_its_neighbours() -> None:
    x = torch.randn(128, 128)
    order = [sqnr_db(values(x, text).numpy(), x.numpy()) for text in ("mxfp4", "mxfp6_e3m2", "mxfp6_e2m3")]
    assert order == sorted(order)
    assert recipe("x", every="mxfp6").texts[0] == "mxfp6_e2m3"
    assert dequantized(make_operand(x, "mxfp6", Draw()), torch.float32).shape == x.shape
