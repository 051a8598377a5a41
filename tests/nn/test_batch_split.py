"""How many tokens share scales; what two processes make of it is in compat/test_distributed.py."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn import RECIPES, QuantLinear, Recipe, recipe
from narrowgauge.nn.batch_split import tokens_per_scale

CASES = {
    "fp32": 1, "int8_switchback": 1, "mxfp8": 32, "fp8_deepseek": 128, "fp8_row": None, "fp8_tensor": None, "rf8": None,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_known_recipes(name: str) -> None:
    assert tokens_per_scale(RECIPES[name]) == CASES[name]


@pytest.mark.parametrize(
    ("slots", "tokens"),
    [
        ({"w_fprop": "int8", "w_dgrad": "e4m3fn:delayed=4"}, 1),
        ({"x_fprop": "int8/32x32", "g_wgrad": "int8/1x48"}, 96),
        ({"x_fprop": "e4m3fn:static=0.5"}, 1),
        ({"x_fprop": "nvfp4"}, None),
        ({"x_wgrad": "mxfp4+rht64", "g_wgrad": "mxfp4+rht64"}, 64),
        ({"x_fprop": "mxfp4+rht64", "w_fprop": "mxfp4+rht64"}, 1),
        ({"g_dgrad": "e5m2:delayed=4"}, None),
        ({"x_fprop": "e2m1fn/row+occ0.99"}, None),
        ({"out_fprop": "e4m3fn/row"}, 1),
        ({"out_dgrad": "e4m3fn"}, None),
        ({"out_wgrad": "e4m3fn/row"}, None),
    ],
)
def test_slots(slots: dict[str, str], tokens: int | None) -> None:
    assert tokens_per_scale(recipe("mine", **slots)) == tokens


@pytest.mark.parametrize("plan", [RECIPES["int8_switchback"], RECIPES["mxfp8"], RECIPES["fp8_deepseek"]])
def test_parts_of_whole_spans_have_the_numbers_of_the_whole(plan: Recipe) -> None:
    torch.manual_seed(0)
    span = tokens_per_scale(plan)
    layer = QuantLinear(64, 48, recipe=plan)
    x = torch.randn(2 * 128, 64, requires_grad=True)
    g = torch.randn(2 * 128, 48)
    whole = (layer(x), *torch.autograd.grad(layer(x), [x, layer.weight], g))
    parts = []
    for part, grad in zip(x.split(128), g.split(128), strict=True):
        assert len(part) % span == 0
        parts.append((layer(part), *torch.autograd.grad(layer(part), [part, layer.weight], grad)))
    for index in range(2):
        torch.testing.assert_close(torch.cat([part[index] for part in parts]), whole[index], rtol=0, atol=1e-5)
    torch.testing.assert_close(parts[0][2] + parts[1][2], whole[2], rtol=0, atol=1e-4)


def test_row_scales_of_the_weight_gradient_are_of_all_tokens() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(64, 48, recipe="fp8_row")
    x, g = torch.randn(256, 64), torch.randn(256, 48)
    whole = torch.autograd.grad(layer(x), layer.weight, g)[0]
    halves = [
        torch.autograd.grad(layer(a), layer.weight, b)[0] for a, b in zip(x.split(128), g.split(128), strict=True)
    ]
    difference = float((halves[0] + halves[1] - whole).norm() / whole.norm())
    assert 1e-3 < difference < 0.05
