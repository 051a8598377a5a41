"""FP4 recipes beside MX: the contract of each layer, and what each of their tricks is for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.formats.stages import Draw, Outliers, Rotation
from narrowgauge.nn import QuantLinear, get_recipe, recipe
from narrowgauge.nn.operand import dequantized, make_operand, restored
from narrowgauge.nn.recipes import fp4
from narrowgauge.nn.stages.elementwise import outliers_before
from narrowgauge.nn.stages.rotation import rotated, sign_vector
from narrowgauge.numerics import sqnr_db
from recipe_layers import assert_contract, assert_learns

NAMES = [r.name for r in fp4.RECIPES]


@pytest.mark.parametrize("name", NAMES)
def test_layers_keep_the_contract(name: str) -> None:
    assert_contract(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    assert_learns(name)


def values(x: Tensor, text: str, call: int = 0) -> Tensor:
    draw = Draw(1, 16 * call, 16 * call + 9)
    return restored(make_operand(x, text, draw), text, draw, x.shape[1], torch.float32)


def gain(x: Tensor, text: str, calls: int) -> tuple[float, float]:
    """<x, x̂> / <x, x> over many draws, and its standard error."""
    gains = [float((values(x, text, call) * x).sum() / x.square().sum()) for call in range(calls)]
    return float(np.mean(gains)), float(np.std(gains) / calls**0.5)


def test_published_slots() -> None:
    assert get_recipe("nvfp4").texts == (
        "nvfp4", "nvfp4_2d", "nvfp4+sr", "nvfp4_2d", "nvfp4+sr+rht16", "nvfp4+rht16",
    )  # fmt: skip
    assert get_recipe("nvfp4_all").texts == ("nvfp4", "nvfp4", "nvfp4+sr", "nvfp4", "nvfp4+sr", "nvfp4+sr")
    assert get_recipe("luq").texts == ("int4:sawb", "int4:sawb", "luq_fp4+sr", "int4:sawb", "luq_fp4+sr", "int4:sawb")
    assert get_recipe("fp4_dge_occ").texts == ("e2m1fn/row+occ0.99", "e2m1fn/row", None, None, None, None)


def test_square_blocks_give_both_products_one_weight() -> None:
    w = torch.randn(64, 96)
    square, rows = ((values(w, text), values(w.t(), text).t()) for text in ("nvfp4_2d", "nvfp4"))
    assert torch.equal(*square)
    assert float((rows[0] - rows[1]).norm() / w.norm()) > 0.05


def test_the_signs_of_the_weight_gradient_never_change() -> None:
    x = torch.randn(32, 64)
    fixed, fresh = ([values(x, text, call) for call in (0, 1)] for text in ("nvfp4+rht16", "nvfp4+rht16fresh"))
    assert torch.equal(*fixed)
    assert not torch.equal(*fresh)


def test_a_rotation_of_16_brings_the_largest_values_down() -> None:
    """What it is for; the error of blocks with one outlier, which is exact under its own scale, does not fall."""
    torch.manual_seed(0)
    g = torch.randn(64, 128)
    g[:, ::16] *= 12.0
    turned = rotated(g, 16, sign_vector(Rotation(16, "fixed"), Draw(), g.device))
    crest = [float((v.view(-1, 16).abs().amax(1) / v.view(-1, 16).square().mean(1).sqrt()).mean()) for v in (g, turned)]
    assert crest[1] < 0.75 * crest[0]
    torch.testing.assert_close(turned.norm(), g.norm())


def test_stochastic_gradients_are_unbiased_but_for_what_a_rounded_scale_clips() -> None:
    g = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    mean, error = gain(g, "nvfp4:rceil+sr", 40)
    assert abs(mean - 1.0) < 5 * error + 1e-6
    assert gain(g, "nvfp4+sr", 40)[0] == pytest.approx(0.9965, abs=0.0015)
    assert abs(gain(g, "nvfp4:rceil", 1)[0] - 1.0) > 10 * error


def test_outliers_are_clamped_and_compensated() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 256)
    x[:, 3] = 30.0 * (1.0 + torch.rand(64))
    db = {
        text: sqnr_db(values(x, text)[:, 4:].numpy(), x[:, 4:].numpy()) for text in ("e2m1fn/row", "e2m1fn/row+occ0.99")
    }
    assert db["e2m1fn/row+occ0.99"] > db["e2m1fn/row"] + 6.0
    clamped = x.clamp(-3.0, 3.0)  # without compensation the outliers themselves are gone
    assert sqnr_db(clamped.numpy(), x.numpy()) < 3.0
    assert sqnr_db(values(x, "e2m1fn/row+occ0.99").numpy(), x.numpy()) > 25.0


def test_outliers_are_those_beyond_two_quantiles() -> None:
    x = torch.arange(1000.0).reshape(10, 100)  # nothing below zero: the smallest are outliers, too
    inside, (_, rest) = outliers_before(Outliers(0.99), x, parse("e2m1fn/row"), Draw())
    assert (float(inside.min()), float(inside.max())) == (10.0, 989.0)
    assert int((rest != 0).sum()) == 20
    assert torch.equal(inside + rest, x)


def _weight_gradient(weight_map: str | None) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    layer = QuantLinear(64, 32, bias=False, recipe=replace(get_recipe("fp4_dge_occ"), weight_map=weight_map))
    layer(torch.randn(16, 64)).square().sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.detach(), layer.weight.grad


def test_dge_shapes_the_weight_gradient_and_nothing_else() -> None:
    levels = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    w, plain = _weight_gradient(None)
    _, shaped = _weight_gradient("dge5")
    scale = w.abs().amax(1, keepdim=True) / 6.0
    y = (w.abs() / scale).numpy().clip(max=6.0)
    upper = np.clip(np.searchsorted(levels, y, side="right"), 1, 7)
    gap = levels[upper] - levels[upper - 1]
    with np.errstate(divide="ignore"):
        slope = np.minimum(np.abs(2 * (y - levels[upper - 1]) / gap - 1) ** (1 / 5 - 1) / 5, 3.0)
    np.testing.assert_allclose(shaped.numpy(), plain.numpy() * slope, rtol=2e-4, atol=1e-6)
    assert slope.max() == 3.0
    assert slope.min() < 0.21


def test_luq_is_unbiased_where_nearest_underflows() -> None:
    torch.manual_seed(0)
    g = torch.randn(128, 128) * torch.exp(3.0 * torch.randn(128, 128))
    small = g.abs() < g.abs().max() / 128
    stochastic = torch.stack([values(g, "luq_fp4+sr", call) for call in range(60)])
    sums = (stochastic * small * g.sign()).sum(dim=(1, 2))
    right, nearest = (float((v * small * g.sign()).sum()) for v in (g, values(g, "luq_fp4")))
    assert abs(float(sums.mean()) - right) < 5 * float(sums.std()) / 60**0.5
    assert nearest < 0.2 * right  # nearest rounding makes most of what is small zero


def test_two_phases_cancel_what_one_grid_repeats() -> None:
    torch.manual_seed(0)
    g = torch.exp2(-8.0 * torch.rand(256, 256)) * torch.randn(256, 256).sign()
    slots = get_recipe("ultra_low_fp4").slots
    even, odd, same = (
        values(g, text) / g - 1.0 for text in (str(slots["g_dgrad"]), str(slots["g_wgrad"]), "radix4_fp4_odd")
    )
    assert torch.allclose(same, even, atol=1e-5)  # under a scale of its own the second grid is the first
    assert float(torch.corrcoef(torch.stack([even.flatten(), odd.flatten()]))[0, 1]) < -0.3
    both = ((even + odd) / 2).square().mean().sqrt()
    assert float(both) < 0.7 * float(torch.minimum(even.square().mean(), odd.square().mean()).sqrt())


def test_forward_codes_serve_the_backward_products_of_luq() -> None:
    w = torch.randn(48, 64)
    assert torch.equal(values(w, "int4:sawb"), values(w.t(), "int4:sawb").t())
    clipped, plain = (sqnr_db(values(w, text).numpy(), w.numpy()) for text in ("int4:sawb", "int4"))
    assert clipped > plain + 2.0


def test_requantize_hands_clamped_and_compensated_values_to_backward() -> None:
    torch.manual_seed(0)
    base = recipe("occ", x_fprop="e2m1fn/row+occ0.99", w_fprop="e2m1fn/row", requantize=True)
    layer = QuantLinear(64, 32, bias=False, recipe=base)
    x, g = torch.randn(16, 64).requires_grad_(), torch.randn(16, 32)
    layer(x).backward(g)
    codes = dequantized(make_operand(layer.weight.detach(), "e2m1fn/row", Draw()), torch.float32)
    torch.testing.assert_close(x.grad, g @ codes)
    torch.testing.assert_close(layer.weight.grad, g.T @ values(x.detach(), "e2m1fn/row+occ0.99"))
