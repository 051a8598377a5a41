"""check_module: every recipe passes, every planted fault is found and named."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import planted_modules
from narrowgauge.formats import parse, quantize_reference
from narrowgauge.nn import RECIPES, QuantLinear, recipe
from narrowgauge.numerics import check_module
from narrowgauge.numerics.modules.slots import resolve_slots, slot_operand

BASIC = ("fp32", "fp8_tensor", "fp8_row", "fp8_deepseek", "mxfp8", "int8_switchback", "rf8", "bf16", "dorefa")
"""Beside these tests/nn/recipes checks every other recipe."""
STOCHASTIC = (
    recipe("gradients", g_dgrad="int8/row+sr", g_wgrad="int8/row+sr", w_dgrad="int8", x_wgrad="int8/row"),
    recipe("mxfp4 backward", x_fprop="mxfp4", w_fprop="mxfp4", g_dgrad="mxfp4+sr", w_dgrad="mxfp4+sr",
           g_wgrad="mxfp4+sr", x_wgrad="mxfp4+sr"),
    recipe("one side", x_fprop="e4m3fn/row+sr", g_wgrad="e5m2/row+sr"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", BASIC)
@pytest.mark.parametrize(("n", "k", "bias"), [(24, 40, True), (13, 37, False)])
def test_quant_linear_passes_under_every_recipe(name: str, n: int, k: int, bias: bool) -> None:
    check_module(QuantLinear(k, n, bias, recipe=name), seeds=16).raise_if_failed()


@pytest.mark.parametrize("chosen", STOCHASTIC, ids=lambda r: r.name)
def test_quant_linear_passes_with_stochastic_slots(chosen: Any) -> None:
    report = check_module(QuantLinear(40, 24, recipe=chosen))
    report.raise_if_failed()
    gains = [value for name, value in report.measurements.items() if name.endswith("gain")]
    assert gains
    assert all(abs(gain - 1.0) < 0.01 for gain in gains)


def test_a_plain_linear_layer_passes_as_a_recipe_of_empty_slots() -> None:
    check_module(nn.Linear(40, 24), {}, dtypes=("float32", "float16")).raise_if_failed()


@pytest.mark.parametrize("slots", ["ROWS", "HYBRID", "BLOCKS", "RANDOM"])
def test_the_planted_layer_without_fault_passes(slots: str) -> None:
    chosen = getattr(planted_modules, slots)
    check_module(planted_modules.Layer(chosen), chosen, seeds=24).raise_if_failed()


@pytest.mark.parametrize("planted", planted_modules.PLANTED, ids=lambda p: p.layer.__name__)
def test_a_planted_fault_is_found_and_named(planted: Any) -> None:
    report = check_module(planted.layer(planted.slots), planted.slots, seeds=24)
    assert planted.kind in report.kinds, report.table()
    assert "out of bound" not in report.kinds, report.table()


def test_a_recipe_that_is_not_the_modules_is_noticed() -> None:
    report = check_module(QuantLinear(40, 24, recipe="fp8_row"), "fp8_tensor")
    assert "x_fprop scaled per row, w_fprop scaled per row" in report.kinds


def test_the_module_is_left_as_it_was() -> None:
    layer = QuantLinear(40, 24, recipe=STOCHASTIC[0]).eval()
    layer.weight.grad = torch.ones_like(layer.weight)
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    check_module(layer, seeds=8)
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))
    assert not layer.training


def test_given_inputs_are_tried_as_well() -> None:
    seen = []

    class Watching(QuantLinear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(input.shape))
            return super().forward(input)

    inputs = torch.randn(2, 5, 40)
    check_module(Watching(40, 24, recipe="fp8_row"), inputs=inputs).raise_if_failed()
    assert (2, 5, 40) in seen


@pytest.mark.parametrize("scheme", ["e4m3fn/row+sr", "mxfp4+sr", "nvfp4+sr", "int8/1x16+sr", "e2m1fn/row+sr+ftz"])
def test_the_model_of_a_stochastic_slot_is_what_the_reference_draws(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 40)).astype(np.float32)
    operand = slot_operand(x, parse(scheme))
    drawn = np.stack([quantize_reference(x, scheme, seed=seed).dequantize() for seed in range(400)])
    assert ((drawn >= operand.low - 1e-12) & (drawn <= operand.high + 1e-12)).all()
    random = operand.variance > 0.0
    z = (drawn.mean(axis=0) - operand.mean)[random] / np.sqrt(operand.variance[random] / 400)
    assert np.abs(z).max() < 5.0
    assert drawn.var(axis=0)[random].sum() == pytest.approx(operand.variance[random].sum(), rel=0.05)


def test_recipes_come_as_names_mappings_and_objects() -> None:
    by_name = resolve_slots("fp8_deepseek", None)
    assert by_name == resolve_slots(RECIPES["fp8_deepseek"], None)
    assert by_name == resolve_slots({slot: str(scheme) for slot, scheme in by_name.items()}, None)
    assert by_name == resolve_slots(None, QuantLinear(4, 4, recipe="fp8_deepseek"))
    assert resolve_slots({"x_fprop": "int8"}, None)["w_fprop"] is None


def test_a_name_needs_the_layer_that_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "narrowgauge.nn")
    with pytest.raises(ValueError, match=r"narrowgauge\.nn is not imported"):
        resolve_slots("fp8_row", None)


def test_what_is_no_linear_layer_and_no_recipe_is_refused() -> None:
    with pytest.raises(TypeError, match="module: got int"):
        check_module(3, {})
    with pytest.raises(TypeError, match="has no matrix `weight`"):
        check_module(nn.ReLU(), {})
    with pytest.raises(TypeError, match="no attribute `recipe`"):
        check_module(nn.Linear(4, 4))
    with pytest.raises(TypeError, match="recipe: got float"):
        check_module(nn.Linear(4, 4), 1.5)
    with pytest.raises(ValueError, match=r"got the slots \['x_forward'\]"):
        check_module(nn.Linear(4, 4), {"x_forward": "int8"})
    with pytest.raises(ValueError, match="dtypes: got"):
        check_module(nn.Linear(4, 4), {}, dtypes=("int8",))
    with pytest.raises(ValueError, match="seeds: got 2"):
        check_module(nn.Linear(4, 4), {}, seeds=2)
