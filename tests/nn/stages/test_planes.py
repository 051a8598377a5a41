"""Bit splitting in torch: the bits of its definition, and two INT4 products that are one of 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.operand import parse_operand, run_before
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.stages.planes import plane_step, planes_before, split
from stage_values import assert_values_of_the_definition, rows_of_many_sizes

TEXTS = ("int8:static=1+sr+planes", "int8:static=1+planes")


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 40), cols=st.integers(1, 70), seed=st.integers(0, 2**31), spoil=st.booleans())
def test_values_are_those_of_the_definition(text: str, rows: int, cols: int, seed: int, spoil: bool) -> None:
    x = rows_of_many_sizes(seed, rows, cols)
    if spoil:
        x[rows // 2, cols // 3] = np.nan
    assert_values_of_the_definition(text, x, Draw(seed, 7, 11))


@pytest.mark.parametrize("text", TEXTS)
def test_empty_operands(text: str) -> None:
    for shape in ((0, 5), (5, 0)):
        assert dequantized(make_operand(torch.zeros(shape), text, Draw()), torch.float32).shape == shape


@pytest.mark.parametrize("seed", range(5))
def test_what_is_quantised_has_the_same_bits(seed: int) -> None:
    spec, x = parse_operand("int8:static=1+planes"), rows_of_many_sizes(seed, 37, 24)
    expected, _ = run_before(x, spec, Draw())
    actual, _ = planes_before(spec.stages[0], torch.from_numpy(x), spec.scheme, Draw())
    assert np.array_equal(actual.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float32])
def test_planes_are_int4_and_make_up_the_code(dtype: torch.dtype) -> None:
    codes = torch.arange(-119, 120).to(dtype)
    high, low = split(codes)
    assert torch.equal(16 * high.int() + low.int(), codes.int())
    for plane, least in ((high, -7), (low, -8)):
        assert plane.min() == least
        assert plane.max() == 7


def test_product_of_the_planes_is_the_product_of_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(20, 30, generator=generator), torch.randint(-7, 8, (30, 10), generator=generator)
    values = dequantized(make_operand(x, "int8:static=1+sr+planes", Draw(3, 4)), torch.float32)
    codes = torch.round(values / plane_step(x)).to(torch.int32)
    high, low = split(codes)
    assert torch.equal(16 * (high @ w.int()) + low @ w.int(), codes @ w.int())
