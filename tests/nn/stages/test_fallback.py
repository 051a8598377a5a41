"""A second term for blocks with outliers in torch: the bits of its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.stages import Draw
from narrowgauge.nn.operand import dequantized, make_operand
from stage_values import assert_values_of_the_definition, rows_of_many_sizes

TEXTS = (
    "int8/4x8+fallback0.2", "e4m3fn/1x16+fallback0.3", "mxfp8_e4m3+fallback0.5", "int8/allx4+fallback0.5",
    "nvfp4+fallback0.1",
)  # fmt: skip


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
