"""Smooth-SwiGLU: the function of SwiGLU, and channels that an outlier channel does not drown."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from narrowgauge.formats.stages import Draw
from narrowgauge.nn import QuantLinear, get_recipe
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.smooth_swiglu import SmoothSwiGLU, smoothed
from narrowgauge.numerics import check_module, sqnr_db


def branches(outlier: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    gate, up = torch.randn(128, 64), torch.randn(128, 64)
    up[:, 7] *= outlier
    return gate, up


def test_other_channels_survive_an_outlier_channel() -> None:
    gate, up = branches(1e5)
    h = silu(gate) * up
    others = torch.arange(64) != 7
    plain, smooth = (
        dequantized(make_operand(h, str(get_recipe(r).x_fprop), Draw()), torch.float32)
        for r in ("fp8_tensor", smoothed("fp8_tensor"))
    )
    drowned, kept = (sqnr_db(v[:, others].numpy(), h[:, others].numpy()) for v in (plain, smooth))
    assert drowned < 12.0
    assert kept > 29.0


def test_the_function_is_that_of_swiglu() -> None:
    """Scales are powers of two: nothing but the place of values among the codes changes."""
    gate, up = branches(1.0)
    layer = QuantLinear(64, 16, recipe="fp8_tensor")
    exact = torch.nn.functional.linear(silu(gate) * up, layer.weight, layer.bias)
    before = layer(silu(gate) * up)
    after = SmoothSwiGLU(layer)(gate, up)
    errors = [float(((y - exact).norm() / exact.norm()).detach()) for y in (before, after)]
    assert errors[1] < 1.1 * errors[0] < 0.06


def test_a_spike_does_not_overrun_a_scale_that_was_fixed_before() -> None:
    errors = {}
    for smooth in (False, True):
        torch.manual_seed(0)
        layer = QuantLinear(64, 16, bias=False, recipe="fp8_2t")
        forward = SmoothSwiGLU(layer) if smooth else lambda gate, up, layer=layer: layer(silu(gate) * up)
        with torch.no_grad():
            forward(*branches(1.0))
            gate, up = branches(1e3)
            weight = dequantized(make_operand(layer.weight, "e4m3fn", Draw()), torch.float32)
            exact = (silu(gate) * up) @ weight.T
            errors[smooth] = float((forward(gate, up) - exact).norm() / exact.norm())
    assert errors[False] > 0.5
    assert errors[True] < 0.06


@pytest.mark.parametrize("name", ["fp8_tensor", "coat", "fp8_lm", "mu_s", "hfp8"])
def test_layers_keep_the_contract(name: str) -> None:
    torch.manual_seed(0)
    report = check_module(QuantLinear(72, 40, recipe=smoothed(name)), seeds=24)
    assert report.ok, report.table()


def test_slots_and_gradients() -> None:
    recipe = smoothed("fp8_2t")
    assert recipe.texts[0] == "e4m3fn:static=0.00390625+smooth"
    assert recipe.texts[5] == "e4m3fn:static=0.00390625+smoothrow"
    assert set(recipe.stateful) == {"w_fprop", "g_dgrad", "w_dgrad", "g_wgrad"}
    gate, up = (t.requires_grad_() for t in branches(1.0))
    module = SmoothSwiGLU(QuantLinear(64, 16, recipe="fp8_2t"))
    module(gate, up).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (gate, up, module.down.weight))


def test_what_it_cannot_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="goes with one scale per tensor"):
        smoothed("mxfp8")
    with pytest.raises(TypeError, match="down: expected a layer under a recipe"):
        SmoothSwiGLU(torch.nn.Linear(4, 4))
