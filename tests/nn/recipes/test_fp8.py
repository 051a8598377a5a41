"""FP8 recipes: the contract of each layer, and what scales, formats, accumulators and promotion are for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from narrowgauge.formats.stages import Draw
from narrowgauge.nn import QuantLinear, get_recipe, recipe
from narrowgauge.nn.accumulate import accumulate
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.recipes import fp8
from narrowgauge.numerics import sqnr_db
from recipe_layers import assert_contract, assert_learns

NAMES = [r.name for r in fp8.RECIPES]


@pytest.mark.parametrize("name", NAMES)
def test_layers_keep_the_contract(name: str) -> None:
    # The float32 scales of earlier steps are read in float32 layers.
    assert_contract(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str) -> None:
    assert_learns(name)


def values(x: torch.Tensor, text: str) -> torch.Tensor:
    return dequantized(make_operand(x, text, Draw()), torch.float32)


def test_published_slots() -> None:
    slots = {name: get_recipe(name).texts for name in NAMES}
    assert slots["fp8_tensor"] == ("e4m3fn", "e4m3fn", "e5m2", "e4m3fn", "e5m2", "e4m3fn")
    assert slots["fp8_row_hp_wgrad"] == (*["e4m3fn/row:pow2"] * 3, "e4m3fn:pow2", None, None)
    block = "e4m3fn/1x128"
    assert slots["fp8_deepseek"] == (block, "e4m3fn/128x128", block, "e4m3fn/128x128", block, block)
    assert slots["fp8_block_te"] == tuple(f"{text}:pow2" for text in slots["fp8_deepseek"])
    delayed = ["e4m3fn:delayed=1024"] * 2
    assert slots["fp8_delayed"][:3] == (*delayed, "e5m2:delayed=1024")


def test_e5m2_gradients_reach_further_down_than_e4m3() -> None:
    g = torch.randn(64, 64) * torch.exp(4 * torch.randn(64, 1))
    lost = [float(((values(g, text) == 0) & (g != 0)).float().mean()) for text in ("e4m3fn", "e5m2")]
    assert lost[1] < 0.5 * lost[0]


def test_blocks_confine_an_outlier() -> None:
    x = torch.randn(64, 512)
    x[3, 5] = 3e5
    others = torch.ones_like(x, dtype=torch.bool)
    others[3, 5] = False
    tensor, block = (sqnr_db(values(x, text)[others].numpy(), x[others].numpy()) for text in ("e4m3fn", "e4m3fn/1x128"))
    assert tensor < 10.0
    assert block > 20.0  # what is left is the block of the outlier


def test_delayed_scaling_clips_a_spike_once_and_then_knows_it() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 32, bias=False, recipe=recipe("delayed", x_fprop="e4m3fn:delayed=4", w_fprop="e4m3fn"))
    x = torch.randn(16, 64)
    for _ in range(3):
        layer(x)
    spike = x * 100.0

    def error(inputs: torch.Tensor) -> float:
        exact = torch.nn.functional.linear(inputs, values(layer.weight.detach(), "e4m3fn"))
        with torch.no_grad():
            return float((layer(inputs) - exact).norm() / exact.norm())

    first, second = error(spike), error(spike)
    assert first > 0.5  # everything beyond 448 scales of the last step is clipped
    assert second < 0.05
    for _ in range(5):
        layer(x)
    assert error(x) < 0.05
    assert error(spike) > 0.5  # four steps later the window has forgotten


def test_current_scaling_never_clips_a_spike() -> None:
    x = 100.0 * torch.randn(16, 64)
    assert sqnr_db(values(x, "e4m3fn").numpy(), x.numpy()) > 28.0


def test_bias_11_reaches_small_weights_that_bias_7_loses() -> None:
    w = 0.004 * torch.randn(64, 64)
    high, low = (
        sqnr_db(values(w, text).numpy(), w.numpy()) for text in ("e4m3b11fnuz:static=1.0", "e4m3fn:static=1.0")
    )
    assert high > low + 8.0


def test_static_scales_need_unit_variance() -> None:
    x = torch.randn(64, 64)
    good, bad = (sqnr_db(values(x * s, "e4m3fn:static=1.0").numpy(), (x * s).numpy()) for s in (1.0, 1e-3))
    assert good > 28.0
    assert bad < 8.0


def test_a_power_of_two_scale_moves_the_bias_and_keeps_the_error() -> None:
    x = torch.randn(256, 256)
    pow2, real = (sqnr_db(values(x, text).numpy(), x.numpy()) for text in ("e4m3fnuz:pow2", "e4m3fnuz"))
    assert abs(pow2 - real) < 0.6


def _swamped(text: str, length: int = 4096) -> float:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, length, generator=generator) for _ in range(2))
    a, b = (values(v, "e5m2:static=1.0") for v in (a, b))
    exact = a.double() @ b.double().T
    return float(((accumulate(a, b, text).double() - exact).abs() / exact).mean())


def test_chunks_keep_a_narrow_sum_from_swamping() -> None:
    assert _swamped("dlfloat16") > 0.1
    assert _swamped("dlfloat16/64") < 0.01


def test_promotion_every_128_keeps_the_sums_of_fp8_tensor_cores() -> None:
    assert _swamped("hopper") > 10 * _swamped("hopper/128")


def test_chunked_sums_reach_the_layer() -> None:
    torch.manual_seed(0)
    base = get_recipe("fp8_ibm2018")
    x = torch.rand(4, 2048)
    errors = []
    for text in ("dlfloat16", base.accumulate):
        torch.manual_seed(1)
        layer = QuantLinear(2048, 8, bias=False, recipe=replace(base, accumulate=text))
        with torch.no_grad():
            layer.weight.uniform_(0.1, 1.0)
            exact = values(x, "e5m2:static=1.0") @ values(layer.weight, "e5m2:static=1.0").T
            errors.append(float((layer(x) - exact).norm() / exact.norm()))
    assert errors[1] < 0.1 * errors[0]
