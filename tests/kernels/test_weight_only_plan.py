"""Choices of weight_only_gemm on targets that are not there: pure functions."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import get, parse
from narrowgauge.kernels._gemm_plan import INTERPRETER
from narrowgauge.kernels._weight_only_plan import (
    Shape,
    dot_depths,
    holds,
    holds_scaled,
    is_moderate,
    scales_sums,
    way_of,
)  # fmt: skip

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
SCHEMES = ("int8/row", "int4/1x128", "int4/1x32", "nf4/1x64", "mxfp4", "nvfp4", "e4m3fn/row", "int8/1x24", "int6/4x24")


def test_what_16_bits_hold() -> None:
    names = ("int8", "uint8", "e4m3fn", "e5m2", "rf8", "e2m1fn", "nf4", "dynamic8", "e5m2fnuz")
    held = {name: [holds(get(name), dtype) for dtype in (torch.bfloat16, torch.float16)] for name in names}
    assert held.pop("nf4") == held.pop("dynamic8") == [False, False]
    assert all(both == [True, True] for both in held.values())


def test_scales_of_powers_of_two_multiply_values_without_a_rounding() -> None:
    assert holds_scaled(parse("mxfp4"), torch.bfloat16)
    assert holds_scaled(parse("mxfp8"), torch.bfloat16)
    assert not holds_scaled(parse("mxfp4"), torch.float16)  # whose range is too narrow
    assert holds_scaled(parse("nvfp4"), torch.bfloat16)
    assert holds_scaled(parse("nvfp4"), torch.float16)
    assert not holds_scaled(parse("int4/1x32"), torch.bfloat16)


def test_values_near_the_ends_of_float32_are_scaled_before_they_are_added() -> None:
    assert is_moderate(get("hif8"))
    assert not is_moderate(get("binary8p1se"))
    assert scales_sums(parse("int8/row"))
    assert not scales_sums(parse("binary8p1se/row"))
    assert not scales_sums(parse("int8/1x64"))
    assert way_of(parse("binary8p1se/row"), torch.bfloat16, False, False, "sm_90").where("dot") == "values"


@pytest.mark.parametrize("target", TARGETS)
def test_operands_are_of_the_type_of_x(target: str) -> None:
    for scheme in SCHEMES:
        packed = parse(scheme).element.bits < 8
        operands = [way_of(parse(scheme), dtype, packed, False, target).operand
                    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]  # fmt: skip
        expected = ["bf16", "fp16", "fp32", "fp64"]
        assert operands == expected
    # Products of values and scales that float16 may not hold.
    assert way_of(parse("mx6"), torch.float16, True, False, target).operand == "fp32"
    assert way_of(parse("nf4/1x64"), torch.float16, True, False, INTERPRETER).operand == "fp32"


def test_no_block_of_a_dot_goes_beyond_a_run() -> None:
    depths = {scheme: dot_depths(way_of(parse(scheme), torch.bfloat16, True, False, "sm_90"))
              for scheme in ("int4/1x128", "int4/1x32", "int4/1x16", "nf4/1x64", "int4/1x24", "mxfp4")}  # fmt: skip
    assert depths == {
        "int4/1x128": (64, 128), "int4/1x32": (32,), "int4/1x16": (16,), "nf4/1x64": (64,), "int4/1x24": (32,),
        "mxfp4": (64, 128),
    }  # fmt: skip


def test_the_class_of_shapes_tells_products_apart() -> None:
    way = way_of(parse("int4/1x128"), torch.bfloat16, True, False, "sm_90")
    spec = parse("int4/1x128")
    assert Shape(5, 64, 64).key(way, spec) == Shape(8, 64, 64).key(way, spec) == "8x64x64 int4/1x128 packed bf16"
    assert Shape(9, 64, 64).key(way, spec) != Shape(8, 64, 64).key(way, spec)
