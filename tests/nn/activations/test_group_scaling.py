"""Group Scaling: maxima taken with the producer, and a per-tensor quantiser that needs no other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from narrowgauge.kernels import quantize
from narrowgauge.nn.activations import evaluate_with_amax, group_scaling, quantize_with_amax

SCHEMES = ("e4m3fn", "e5m2", "int8", "int8:pow2", "e4m3fn:pow2", "int4")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_codes_and_scale_are_those_of_quantize(scheme: str, dtype: torch.dtype) -> None:
    gate, up = torch.randn(2, 3, 50, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    y, amax = evaluate_with_amax(lambda g, u: F.silu(g) * u, gate, up, group=16)
    assert torch.equal(y, F.silu(gate) * up)
    actual, expected = quantize_with_amax(y, scheme, amax), quantize(y, scheme)
    assert torch.equal(actual[0], expected.codes)
    assert torch.equal(actual[1], expected.scale)


def test_maxima_are_those_of_the_slices_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_scaling, "BLOCK_ELEMENTS", 7 * 100)
    x = torch.randn(40, 100, generator=torch.Generator().manual_seed(1))
    y, amax = evaluate_with_amax(lambda rows: rows * 2, x, group=32)
    assert torch.equal(y, x * 2)
    expected = torch.stack([(2 * x[:, start : start + 32]).abs().amax(1) for start in range(0, 100, 32)], dim=1)
    assert torch.equal(amax, expected)


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 129)])
def test_small_and_empty_tensors(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    y, amax = evaluate_with_amax(F.gelu, x)
    codes, scale, _ = quantize_with_amax(y, "e4m3fn", amax)
    expected = quantize(F.gelu(x), "e4m3fn")
    assert torch.equal(codes, expected.codes)
    assert torch.equal(scale, expected.scale)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp8", "int8:static=0.5", "int8:mse", "nf4"])
def test_schemes_of_another_scale_are_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match="accepted: one scale per tensor"):
        quantize_with_amax(torch.ones(2, 2), scheme, torch.ones(2, 1))


def test_a_maximum_that_is_not_finite_spoils_the_tensor_as_in_quantize() -> None:
    x = torch.tensor([[1.0, float("inf"), 2.0]])
    codes, scale, _ = quantize_with_amax(x, "e4m3fn", x.abs())
    assert torch.equal(codes, quantize(x, "e4m3fn").codes)
    assert scale.isnan().all()


def test_group_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="group: expected at least 1, got 0"):
        evaluate_with_amax(F.gelu, torch.ones(2, 2), group=0)
