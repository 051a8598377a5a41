"""The suite `linear` times every recipe and says what it costs in accuracy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from narrowgauge.bench import linear
from narrowgauge.bench.linear import RECIPES


@pytest.fixture(scope="module")
def result():
    return linear.run_suite(32, repetitions=9)


def test_every_recipe_is_timed_against_the_plain_layer(result) -> None:
    assert [row.name for row in result.rows] == ["nn.Linear", *RECIPES]
    assert result.rows[0].ratio == 1.0
    assert all(row.figures["milliseconds"] > 0 for row in result.rows)


def test_accuracy_is_that_of_eight_bits(result) -> None:
    figures = {row.name: row.figures for row in result.rows}
    assert set(figures["fp32"].values()) - {figures["fp32"]["milliseconds"]} == {math.inf}
    assert math.isinf(figures["int8_switchback"]["sqnr_dw_db"])  # its weight gradient stays in float32
    for name in ("fp8_row", "mxfp8", "fp8_deepseek", "rf8"):
        for quantity in ("sqnr_y_db", "sqnr_dx_db", "sqnr_dw_db"):
            assert 20 < figures[name][quantity] < 40, (name, quantity)


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


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="nearest: fp8_row"):
        linear.run_suite(8, ["fp8_rwo"])
