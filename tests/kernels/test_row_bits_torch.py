"""Rounding bits by rows, drawn some at a time, against those of the whole matrix."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.kernels import _row_bits_torch
from narrowgauge.kernels._cast_torch import rounding_bits
from narrowgauge.kernels._row_bits_torch import drawn_rows


@pytest.mark.parametrize("drawn", [1, 40, 64, 1000])
@pytest.mark.parametrize("step", [1, 3, 8, 50])
@pytest.mark.parametrize("cols", [1, 8, 13])
def test_rows_are_those_of_the_whole_matrix(cols: int, step: int, drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_bits_torch, "DRAWN", drawn)
    whole = rounding_bits((21, cols), 5, 9, torch.device("cpu"))
    rows = drawn_rows((21, cols), 5, 9)
    for start in range(0, 21, step):
        part = rows(slice(start, start + step))
        assert part is not None
        assert torch.equal(part, whole[start : start + step])
