"""Block Householder in torch: the bits of its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.operand import parse_operand, run_before
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.operand import dequantized, make_operand
from narrowgauge.nn.stages.householder import householder_before
from stage_values import assert_values_of_the_definition, rows_of_many_sizes

TEXTS = ("uint8/row+sr+affine+bhq", "uint4/row+affine+bhq", "int8/row+bhq")


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
    spec, x = parse_operand("uint8/row+bhq"), rows_of_many_sizes(seed, 37, 24)
    expected, _ = run_before(x, spec, Draw())
    actual, _ = householder_before(spec.stages[0], torch.from_numpy(x), spec.scheme, Draw())
    assert np.array_equal(actual.numpy(), expected)
