"""Bit splitting: codes that are two INT4 planes."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.formats.operand import operand_reference, parse_operand
from narrowgauge.formats.stages import Draw
from narrowgauge.formats.stages.planes import HIGH, LARGEST_CODE

TEXT = "int8:static=1.0+sr+planes"


def test_every_code_splits_and_the_largest_is_reached() -> None:
    x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    x[0, :2] = 6.0, -6.0
    step = np.float32(6.0) / LARGEST_CODE
    codes = np.rint(operand_reference(x, TEXT, Draw(1, 2)) / step)
    assert codes.max() == -codes.min() == LARGEST_CODE
    high = np.floor_divide(codes + 8, HIGH)
    low = codes - HIGH * high
    assert high.min() == -7
    assert high.max() == 7
    assert low.min() == -8
    assert low.max() == 7


def test_estimate_has_no_bias_at_the_largest_values() -> None:
    x = np.array([[1.0, -0.9999, 0.5003, 1e-3]], dtype=np.float32)
    mean = np.mean([operand_reference(x, TEXT, Draw(0, i)) for i in range(4000)], axis=0)
    np.testing.assert_allclose(mean, x, atol=5 / LARGEST_CODE / 2 / 4000**0.5)


def test_zeros_and_values_that_are_not_finite() -> None:
    assert not operand_reference(np.zeros((2, 3), np.float32), TEXT).any()
    assert np.isnan(operand_reference(np.array([[1.0, np.inf]], np.float32), TEXT)).all()


@pytest.mark.parametrize("text", ["int8+planes", "int8/row:static=1.0+planes", "int4:static=1.0+planes"])
def test_goes_with_one_scheme(text: str) -> None:
    with pytest.raises(ValueError, match="planes"):
        parse_operand(text)
