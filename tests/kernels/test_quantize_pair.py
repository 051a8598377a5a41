"""Two copies from one read are the two single operators' results, bit for bit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels._quantize_torch import quantize_torch
from narrowgauge.kernels.quantize_pair import QUANTIZE_PAIR, quantize_pair
from narrowgauge.kernels.tensor import quantize

PAIRS = [
    ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/1x128"), ("e4m3fn/128x128", "e5m2/1x128+sr"),
    ("mxfp8", "mxfp8"), ("mxfp4+sr", "mxfp4+sr"), ("nvfp4", "nvfp4+sr"), ("nvfp4_2d", "e4m3fn"),
    ("int8+sr", "int8/col"), ("nf4/1x64", "nf4/1x64"), ("uint8/4x24", "rf8/row+sr"), ("e4m3fn/row:mse", "e4m3fn/row"),
    ("mx9", "nvfp4:rceil"),
]  # fmt: skip


def wild(rows: int, cols: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 10007 + cols)
    x = torch.randn(rows, cols, generator=generator) * torch.exp(torch.randn(rows, cols, generator=generator))
    x[1, 2], x[2, 0], x[rows // 2] = float("nan"), -float("inf"), 0.0
    return x


@pytest.mark.parametrize("implementation", ["torch", "triton"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_six_results_are_those_of_two_operators(
    pair: tuple[str, str], implementation: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cuda" and implementation == "torch":
        pytest.skip("gpu run: the torch implementation serves the CPU")
    monkeypatch.setattr(sys.modules[quantize_pair.__module__], "BLOCK", 3000)  # several blocks on the CPU
    x = wild(132, 141)
    with np.errstate(all="ignore"):
        actual = QUANTIZE_PAIR.implementation(implementation)(x.to(device), *pair, 5, 6, 7)
        expected = (*quantize_torch(x, pair[0], 5, 6), *quantize_torch(x.t().contiguous(), pair[1], 5, 7))
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got.cpu(), want, rtol=0.0, atol=0.0, equal_nan=True)
    assert actual[3].is_contiguous()


def test_every_axis_but_the_last_is_a_row() -> None:
    x = torch.randn(3, 4, 40, generator=torch.Generator().manual_seed(0))
    first, turned = quantize_pair(x, "e4m3fn/row", "mxfp8")
    assert first.shape == (3, 4, 40)
    assert turned.shape == (40, 12)
    expected = quantize(x.flatten(0, -2).t(), "mxfp8")
    assert torch.equal(turned.codes, expected.codes)
    assert torch.equal(turned.scale, expected.scale)
    assert (first.text, turned.text, first.dtype) == ("e4m3fn/row", expected.text, torch.float32)


def test_the_streams_of_the_two_copies_differ_unless_one_asks_for_the_same() -> None:
    x = torch.full((64, 64), 0.3)
    x[0, 0] = 448.0
    first, turned = quantize_pair(x, "e4m3fn+sr", "e4m3fn+sr", seed=3)
    assert not torch.equal(first.codes, turned.codes)
    first, turned = quantize_pair(x, "e4m3fn+sr", "e4m3fn+sr", seed=3, offset=4, turned_offset=4)
    assert torch.equal(first.codes, turned.codes)  # equal values, numbered alike


def test_it_traces_and_needs_no_gradient() -> None:
    x = torch.randn(32, 48, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first, turned = quantize_pair(x, "e4m3fn/row", "e4m3fn/row")
    assert not first.scale.requires_grad
    assert not turned.scale.requires_grad
    target = torch.ops.narrowgauge.quantize_pair.default
    torch.library.opcheck(target, (x.detach(), "e4m3fn/1x16", "mxfp4+sr", 1, 2, 3))
    torch.library.opcheck(target, (x.detach().t(), "nvfp4", "int8/col", 1, 2, 3))


def test_wrong_input_is_refused_by_name() -> None:
    x = torch.randn(4, 4)
    with pytest.raises(TypeError, match="x: expected dtype"):
        quantize_pair(x.int(), "e4m3fn", "e4m3fn")
    with pytest.raises(ValueError, match="seed"):
        quantize_pair(x, "e4m3fn", "e4m3fn+sr")
    with pytest.raises(ValueError, match="e4m3fx"):
        quantize_pair(x, "e4m3fn", "e4m3fx")
