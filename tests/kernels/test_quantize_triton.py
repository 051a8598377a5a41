"""The kernels of quantize on shapes of several programs, and along either axis of memory, against the CPU's bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels import _quantize_plan
from narrowgauge.kernels._quantize_plan import plan
from narrowgauge.kernels._quantize_torch import quantize_torch
from narrowgauge.kernels._quantize_triton import quantize_triton


def wild(rows: int, cols: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 10007 + cols)
    x = torch.randn(rows, cols, generator=generator) * torch.exp(torch.randn(rows, cols, generator=generator))
    if rows > 2 and cols > 2:
        x[1, 2], x[2, 0], x[rows // 2] = float("nan"), -float("inf"), 0.0
    return x


def assert_same(x: Tensor, scheme: str, device: torch.device) -> None:
    expected = quantize_torch(x, scheme, 11, 12)
    with np.errstate(all="ignore"):
        actual = quantize_triton(x.to(device), scheme, 11, 12)
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got.cpu(), want, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize(
    "scheme",
    ["e4m3fn", "e4m3fn/row", "e4m3fn/col", "e4m3fn/1x128", "e4m3fn/128x128", "int8/24x5", "mxfp8", "nvfp4", "nvfp4_2d",
     "e5m2/row+sr", "mxfp4+sr", "int8+sr", "e4m3fn/allx16", "e4m3fn/16xall", "int8/384x96"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(70, 530), (530, 70), (1, 2050)])
def test_several_programs_give_the_bits_of_one_sweep(scheme: str, shape: tuple[int, int], device: torch.device) -> None:
    assert_same(wild(*shape), scheme, device)


@pytest.mark.parametrize("scheme", ["e4m3fn", "e4m3fn/row", "e4m3fn/col+sr", "int8/32x32", "mxfp8+sr", "nvfp4"])
def test_a_transposed_view_gives_the_bits_of_its_copy(scheme: str, device: torch.device) -> None:
    x = wild(150, 100).t()
    with np.errstate(all="ignore"):
        codes = quantize_triton(x.to(device), scheme, 11, 12)[0]
    assert codes.t().is_contiguous()
    assert_same(x, scheme, device)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "int8/row+sr", "rf8/1x32768:pow2"])
@pytest.mark.parametrize("cols", [20000, 16385])
def test_a_row_that_no_program_holds_is_read_twice(
    scheme: str, cols: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_quantize_plan, "FEWEST_ROWS", 1)
    assert plan(4, cols, parse(scheme)).kind == "rows"
    assert_same(wild(4, cols), scheme, device)


def test_the_words_of_one_call_of_philox_go_to_four_neighbours(device: torch.device) -> None:
    # 72 columns are a multiple of 4 and take the words of a call together, 71 are not.
    for cols in (72, 71, 4, 3):
        assert_same(wild(40, cols), "e4m3fn/row+sr", device)
