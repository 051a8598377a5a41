"""What layers keep for backward, against what autograd keeps, and weights as codes, against codes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.formats import parse
from narrowgauge.kernels import quantize
from narrowgauge.nn import RECIPES, SLOTS, QuantLinear, recipe
from narrowgauge.nn.saved_bytes import TOKENS, bytes_as_codes, bytes_saved, saved_per_token

MIXED = recipe("mixed", **dict.fromkeys(SLOTS, "mxfp4+sr"))


def grown(layer: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """Bytes per token of calls with TOKENS more."""
    few, many = (torch.randn(3, count, 96, dtype=dtype, requires_grad=True) for count in (TOKENS // 3, 2 * TOKENS // 3))
    return (bytes_saved(layer, many) - bytes_saved(layer, few)) / TOKENS


@pytest.mark.parametrize("plan", [*RECIPES.values(), MIXED], ids=lambda plan: plan.name)
def test_the_figure_is_what_autograd_keeps_of_a_wide_layer(plan: ng.Recipe) -> None:
    layer = ng.convert(nn.Linear(96, 40), plan)
    assert grown(layer) == saved_per_token(plan, 96, torch.float32, False)
    layer.weight.requires_grad_(False)
    assert grown(layer) == saved_per_token(plan, 96, torch.float32, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_layer_keeps_its_input(dtype: torch.dtype) -> None:
    layer = nn.Linear(96, 40, dtype=dtype)
    assert grown(layer, dtype) == saved_per_token(None, 96, dtype, False) == 96 * dtype.itemsize
    assert saved_per_token(None, 96, dtype, True) == 0
    assert grown(ng.convert(layer, "fp8_row"), dtype) == saved_per_token(RECIPES["fp8_row"], 96, dtype, False) == 96


def test_row_scales_are_shared_by_the_tokens_and_blocks_are_not() -> None:
    assert saved_per_token(RECIPES["fp8_row"], 64, torch.float32, False) == 64
    assert saved_per_token(RECIPES["fp8_deepseek"], 64, torch.float32, False) == 64 + 64 * 4 / 128
    assert saved_per_token(RECIPES["int8_switchback"], 64, torch.float32, False) == 64 * 4


def test_a_tensor_that_two_layers_keep_counts_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    x = torch.randn(16, 8)
    assert bytes_saved(Two(), x) == 16 * 8 * 4
    assert bytes_saved(ng.convert(Two(), "fp8_row"), x) == 2 * (16 * 8 + 8 * 4 + 4)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "e4m3fn", "e4m3fn/128x128", "mxfp8", "int8/1x32"])
def test_codes_of_eight_bits_take_what_a_quantised_tensor_does(scheme: str) -> None:
    assert bytes_as_codes((40, 96), parse(scheme)) == quantize(torch.randn(40, 96), scheme).nbytes


def test_narrow_codes_are_counted_without_gaps() -> None:
    assert bytes_as_codes((2, 32), parse("mxfp4")) == 2 * (16 + 1)
    assert bytes_as_codes((2, 32), parse("nvfp4")) == 2 * (16 + 2) + 4
    assert bytes_as_codes((1, 3), parse("int4/row")) == 2 + 4


def test_counters_of_the_model_are_not_touched() -> None:
    layer = QuantLinear(8, 4, recipe=MIXED)
    ng.explain(layer)
    assert int(layer.rounding_step) == 0


def test_modes_around_the_call_do_not_count() -> None:
    layer = QuantLinear(56, 4, recipe="fp8_row")
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        inside = ng.explain(layer)
    assert inside.rows[0].saved_before == 56 * 4
    assert inside == ng.explain(layer)
