"""Values as int8 codes under one exponent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.nn.niti import IntTensor, to_int_tensor


@given(st.floats(1e-30, 1e30))
def test_exponent_is_the_smallest_that_does_not_clip(largest: float) -> None:
    x = torch.tensor([largest, -largest / 3], dtype=torch.float64)
    codes, exponent = to_int_tensor(x)
    assert largest <= 127 * 2.0**exponent
    assert largest > 127 * 2.0 ** (exponent - 1)
    assert float((codes.double() * 2.0**exponent - x).abs().max()) <= 2.0 ** (exponent - 1)


def test_codes_read_back() -> None:
    assert torch.equal(IntTensor(torch.tensor([-3, 5], dtype=torch.int8), -2).float(), torch.tensor([-0.75, 1.25]))
    assert to_int_tensor(torch.zeros(3)) == (pytest.approx(torch.zeros(3)), 0)


def test_values_that_are_not_finite_are_refused() -> None:
    for bad in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite"):
            to_int_tensor(torch.tensor([1.0, bad]))
