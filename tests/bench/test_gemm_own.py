"""Our own competitors multiply what they say, and count the bytes that they read."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.gemm_check import check_product
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.gemm_own import baseline, is_block_pair, ops_of, own_makers, pair_name, scheme_pair
from narrowgauge.bench.model_shapes import Problem

UNITS = ("float32",)
PAIRS = [scheme_pair(text) for text in ("e4m3fn/row", "e4m3fn/1x128,e4m3fn/128x128", "mxfp8", "nvfp4", "mxfp4")]
WEIGHTS = ("int8/row", "int4/1x128", "nvfp4")


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(Problem("p", 12, 20, 256), "cpu", torch.float32, seed=0)


def test_pairs_of_schemes() -> None:
    assert scheme_pair("e4m3fn/row") == ("e4m3fn/row", "e4m3fn/row")
    assert pair_name(scheme_pair(" e4m3fn/1x128 , e4m3fn/128x128")) == "e4m3fn/1x128 · e4m3fn/128x128"
    assert pair_name(("int8/row", "int8/row")) == "int8/row"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b,c", "one scheme, or those of x and w"), ("e4m3fn,", "one scheme, or"), ("e4m3fn/row+sr", "round to nearest"),
     ("e9m9", "e9m9")],
)  # fmt: skip
def test_other_texts_are_no_pairs(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheme_pair(text)


def test_every_competitor_is_right(inputs: Inputs) -> None:
    makers = own_makers(PAIRS, WEIGHTS, UNITS, with_quantize=True)
    assert next(iter(makers)) == "torch.mm"
    assert {"block_scaled_gemm nvfp4", "quantize + scaled_gemm nvfp4", "weight_only_gemm int4/1x128"} <= set(makers)
    for number in range(2):
        for name, make in makers.items():
            racer = make(inputs)
            y = racer.call()
            assert y.dtype in racer.dtypes
            assert check_product(y, racer.operands, 256, racer.rounding) < 1e-6, name
            assert racer.unit == "float32"
            assert racer.note
        inputs.refill(number + 1)


def test_packed_codes_are_half_the_bytes(inputs: Inputs) -> None:
    makers = own_makers(PAIRS, WEIGHTS, UNITS, with_quantize=False)
    eight, four = (makers[f"weight_only_gemm {scheme}"](inputs).bytes for scheme in ("int8/row", "int4/1x128"))
    assert eight - four == pytest.approx(20 * 128, rel=0.1)
    assert (
        makers["block_scaled_gemm mxfp4"](inputs).bytes
        < 0.6 * makers["block_scaled_gemm mxfp8_e4m3"](inputs).bytes + 500
    )


def test_who_takes_which_schemes() -> None:
    assert is_block_pair(("mxfp8", "mxfp4"))
    assert is_block_pair(("nvfp4", "nvfp4"))
    assert not is_block_pair(("nvfp4", "mxfp4"))
    assert not is_block_pair(("e4m3fn/row", "e4m3fn/row"))
    assert not is_block_pair(("mxint8", "mxint8"))
    assert [op.name for op in ops_of(PAIRS[:1], ())] == ["scaled_gemm"]
    assert [op.name for op in ops_of(PAIRS, WEIGHTS)] == ["scaled_gemm", "block_scaled_gemm", "weight_only_gemm"]


def test_a_baseline_of_16_bits_may_add_up_in_16_bits() -> None:
    racers = [baseline(Inputs(Problem("p", 3, 4, 64), "cpu", dtype, 0)) for dtype in (torch.float32, torch.bfloat16)]
    assert [racer.unit for racer in racers] == ["float32", "bfloat16"]
    assert [racer.rounding.narrow for racer in racers] == [0.0, 2.0**-7]
