"""The suite `linear` times every recipe and says what it costs in accuracy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from narrowgauge.bench import linear
from narrowgauge.bench.ceilings import Probes
from narrowgauge.bench.linear import RECIPES

PROBES = Probes(size=32, copy_bytes=1 << 16)


@pytest.fixture(scope="module")
def result():
    return linear.run_suite(32, repetitions=9, probes=PROBES)


def test_every_recipe_is_timed_against_the_plain_layer(result) -> None:
    assert [row.name for row in result.rows] == [f"32x32x32: {name}" for name in ("nn.Linear", *RECIPES)]
    assert result.rows[0].ratio == 1.0
    assert all(row.figures["milliseconds"] > 0 for row in result.rows)


def test_accuracy_is_that_of_eight_bits(result) -> None:
    figures = {row.name.removeprefix("32x32x32: "): row.figures for row in result.rows}
    assert {value for name, value in figures["fp32"].items() if name.startswith("sqnr")} == {math.inf}
    assert math.isinf(figures["int8_switchback"]["sqnr_dw_db"])  # its weight gradient stays in float32
    for name in ("fp8_row", "mxfp8", "fp8_deepseek", "rf8"):
        for quantity in ("sqnr_y_db", "sqnr_dx_db", "sqnr_dw_db"):
            assert 20 < figures[name][quantity] < 40, (name, quantity)


def test_rates_are_those_of_three_products(result) -> None:
    flops, moved = 6 * 32**3, 2 * 3 * 32 * 32 * 4
    for row in result.rows:
        rate = flops / row.timing.median
        assert row.figures["tflop_per_s"] == pytest.approx(rate / 1e12)
        assert row.figures["peak_percent"] == pytest.approx(100 * rate / 1e12 / result.ceilings["float32_tflop_per_s"])
        assert row.figures["intensity_flop_per_byte"] == pytest.approx(flops / moved)


def test_shapes_models_and_dtypes_can_be_chosen() -> None:
    told = []
    shapes = ["8x16x24", "3x5x7", "8x16x24"]
    result = linear.run_suite(recipes=["fp8_row"], shapes=shapes, dtype="bfloat16", repetitions=9, probes=PROBES,
                              save=lambda so_far: told.append(len(so_far.rows)))  # fmt: skip
    assert [row.name for row in result.rows] == [
        f"{shape}: {name}" for shape in ("8x16x24", "3x5x7") for name in ("nn.Linear", "fp8_row")
    ]
    assert told == [2, 4]
    # bfloat16's own roundings, against float32 with the same values
    assert 40 < result.rows[0].figures["sqnr_y_db"] < 70
    assert "peak_percent" not in result.rows[0].figures  # a CPU's roof is float32's
    problems = linear.layers(8, ["2x3x4"], ["llama3-8b"], 16)
    assert (problems[0].m, problems[0].n, problems[0].k) == (2, 3, 4)
    assert {(problem.m, problem.k) for problem in problems[1:]} == {(16, 4096), (16, 14336)}


def test_result_is_json_without_infinities(result) -> None:
    assert result.to_dict()["rows"][0]["figures"]["sqnr_y_db"] is None


def test_forward_and_backward_are_those_of_autograd() -> None:
    layer, x, grad = nn.Linear(3, 2, bias=False), torch.randn(5, 3), torch.randn(5, 2)
    y, dx, dw = linear.forward_backward(layer, x, grad)()
    torch.testing.assert_close(y, x @ layer.weight.T)
    torch.testing.assert_close(dx, grad @ layer.weight)
    torch.testing.assert_close(dw, grad.T @ x)


def test_a_wrong_product_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(op, device) -> None:
        raise AssertionError(f"{op.name}: 1 of 6 elements are out of bound")

    monkeypatch.setattr(linear, "check_samples", wrong)
    with pytest.raises(AssertionError, match="scaled_gemm"):
        linear.run_suite(8, repetitions=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size: expected at least 1, got 0"), ({"dtype": "int8"}, "dtype: got 'int8', accepted: float32"),
     ({"shapes": ["2x3"]}, "shape: got '2x3', accepted: MxNxK")],
)  # fmt: skip
def test_mistakes_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear.run_suite(**options)


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="nearest: fp8_row"):
        linear.run_suite(8, ["fp8_rwo"])
