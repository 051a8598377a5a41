"""Changes of scheme without a way back to float, and transposes that keep every value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import _requantize_torch
from narrowgauge.kernels._quantize_torch import quantize_torch
from narrowgauge.kernels.dequantize import dequantize_torch
from narrowgauge.kernels.requantize import REQUANTIZE, SAMPLE_PAIRS
from narrowgauge.kernels.tensor import quantize


def wild(rows: int, cols: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 10007 + cols)
    x = torch.randn(rows, cols, generator=generator) * torch.exp(torch.randn(rows, cols, generator=generator))
    x[1, 2], x[2, 0], x[rows // 2] = float("nan"), -float("inf"), 0.0
    return x


@pytest.mark.parametrize("implementation", ["torch", "triton"])
@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned"])
@pytest.mark.parametrize("pair", SAMPLE_PAIRS, ids=" to ".join)
def test_results_are_those_of_two_operators(
    pair: tuple[str, str], turned: bool, implementation: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cuda" and implementation == "torch":
        pytest.skip("gpu run: the torch implementation serves the CPU")
    monkeypatch.setattr(_requantize_torch, "BLOCK", 3000)  # several blocks, the last one ragged
    with np.errstate(all="ignore"):
        parts = quantize_torch(wild(66, 140), pair[0], 1, 2)
        values = dequantize_torch(*parts, pair[0], torch.float32)
        expected = quantize_torch(values.t().contiguous() if turned else values, pair[1], 3, 4)
        sent = tuple(part.to(device) for part in parts)
        actual = REQUANTIZE.implementation(implementation)(*sent, *pair, turned, 3, 4)
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got.cpu(), want, rtol=0.0, atol=0.0, equal_nan=True)
    assert actual[0].is_contiguous()


@pytest.mark.parametrize(
    ("scheme", "other"),
    [("e4m3fn", "e4m3fn"), ("e4m3fn/row", "e4m3fn/col"), ("int8/col", "int8/row"), ("rf8/1x16", "rf8/16x1"),
     ("nf4/8x32:mse", "nf4/32x8:mse"), ("e5m2/16x16:pow2", "e5m2/16x16:pow2"), ("nvfp4_2d", "nvfp4_2d")],
)  # fmt: skip
def test_a_transpose_keeps_every_value(scheme: str, other: str) -> None:
    q = quantize(wild(40, 70), scheme)
    turned = q.transpose()
    assert turned.text == other
    assert turned.codes.is_contiguous()
    torch.testing.assert_close(turned.dequantize(), q.dequantize().t(), rtol=0.0, atol=0.0, equal_nan=True)
    again = turned.transpose()
    assert torch.equal(again.codes, q.codes)
    torch.testing.assert_close(again.scale, q.scale, rtol=0.0, atol=0.0, equal_nan=True)


def test_quantising_what_was_quantised_may_give_other_codes() -> None:
    # Why the operator has no short cut for equal schemes: a maximum that was rounded down takes a smaller power of two,
    # and beside a NaN nothing is left.
    q = quantize(torch.tensor([[225.0, 1.0], [1.0, 2.0]]), "e4m3fn/row:pow2")
    again = q.requantize("e4m3fn/row:pow2")
    assert again.scale[0] == q.scale[0] / 2
    assert torch.equal(again.dequantize(), q.dequantize())
    assert not torch.equal(again.codes, q.codes)
    q = quantize(torch.tensor([[float("nan"), 1.0]]), "e4m3fn/row")
    assert q.codes.tolist() == [[0x7F, 0]]
    assert q.requantize("e4m3fn/row").codes.tolist() == [[0x7F, 0x7F]]


@pytest.mark.parametrize(
    "scheme", ["e4m3fn/row", "e5m2", "int8/16x16", "rf8/col", "nf4/1x64", "e4m3fn/128x128", "nvfp4"]
)
def test_scales_of_maxima_are_those_of_the_decoded_maxima(scheme: str) -> None:
    # With s = fl(a / c), fl(c · s) is at least as near to c · s as a is, so that its quotient is rounded to s again.
    q = quantize(torch.randn(512, 64, generator=torch.Generator().manual_seed(0)), scheme)
    again = q.requantize(scheme)
    assert torch.equal(again.scale, q.scale)
    assert torch.equal(again.codes, q.codes)


def test_methods_take_a_seed_where_one_is_needed() -> None:
    q = quantize(wild(16, 32), "e4m3fn/row")
    with pytest.raises(ValueError, match="seed"):
        q.requantize("mxfp4+sr")
    turned = q.requantize("mxfp4+sr", seed=1, turned=True)
    assert turned.shape == (32, 16)
    assert turned.text == "mxfp4+sr"
    assert turned.dtype == q.dtype


def test_transposes_that_no_scheme_stands_for_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of mxfp8_e4m3 are 1x32"):
        quantize(torch.randn(4, 32), "mxfp8").transpose()
    with pytest.raises(ValueError, match="two axes"):
        quantize(torch.randn(2, 4, 8), "e4m3fn").transpose()


def test_codes_that_do_not_fit_the_scheme_are_refused() -> None:
    q = quantize(torch.randn(4, 32), "e4m3fn/row")
    with pytest.raises(TypeError, match="codes"):
        REQUANTIZE(q.codes, q.scale, q.outer, "int8/row", "e4m3fn", False, 0, 0)
    with pytest.raises(ValueError, match="scale"):
        REQUANTIZE(q.codes, q.scale, q.outer, "e4m3fn/1x16", "e4m3fn", False, 0, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_it_traces(turned: bool) -> None:
    q = quantize(torch.randn(24, 40, generator=torch.Generator().manual_seed(0)), "e4m3fn/row")
    target = torch.ops.narrowgauge.requantize.default
    torch.library.opcheck(target, (q.codes, q.scale, q.outer, q.text, "mxfp4+sr", turned, 1, 2))
    torch.library.opcheck(target, (q.codes, q.scale, q.outer, q.text, "int8/row", turned, 0, 0))
