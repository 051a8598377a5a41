"""Compiled quantisation by torch's own casts: the bits of the reference, on every float16 and around every midpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats import get, quantize_reference
from narrowgauge.kernels import quantize
from narrowgauge.kernels._quantize_torch import FUSED_CASTS, quantize_torch


def hard_values(name: str) -> np.ndarray:
    """Every float16, and every value and midpoint of the format with its neighbours in float32, of both signs."""
    levels = np.unique(np.abs(get(name).values()[np.isfinite(get(name).values())]))
    points = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2]).astype(np.float32)
    near = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))]
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return np.concatenate([*near, *(-part for part in near), halves]).astype(np.float32)


@pytest.fixture
def compiled() -> object:
    torch.compiler.reset()

    def quantised(x: torch.Tensor, scheme: str) -> tuple[torch.Tensor, torch.Tensor]:
        q = quantize(x, scheme)
        return q.codes, q.scale

    return torch.compile(quantised, fullgraph=True, dynamic=False)


@pytest.mark.parametrize("name", FUSED_CASTS)
@pytest.mark.parametrize("scale", ["static=1.0", "static=0.37"])
def test_every_hard_value_has_the_code_of_the_reference(compiled, name: str, scale: str) -> None:  # type: ignore[no-untyped-def]
    x = hard_values(name)
    x = x[np.isfinite(x)]
    scheme = f"{name}/row:{scale}"
    codes, scales = compiled(torch.from_numpy(x[None]), scheme)
    expected = quantize_reference(x[None], scheme)
    np.testing.assert_array_equal(codes.numpy(), expected.codes)
    np.testing.assert_array_equal(scales.numpy(), expected.scale)


@pytest.mark.parametrize("name", FUSED_CASTS)
@pytest.mark.parametrize("tail", ["/row", "", "/col", "/row:pow2", "/row:ceil", "/row:floor"])
def test_rows_with_nan_and_infinities_have_the_codes_of_eager_calls(compiled, name: str, tail: str) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 300, generator=generator) * torch.exp(3 * torch.randn(40, 300, generator=generator))
    if tail:
        x[3, 5], x[4, 6], x[9, 0], x[10, 3] = float("nan"), -float("nan"), float("inf"), -float("inf")
        x[12], x[13], x[14], x[15] = 0.0, -0.0, 1e-42, 3e38
    actual, expected = compiled(x, f"{name}{tail}"), quantize_torch(x, f"{name}{tail}", 0, 0)
    for mine, other in zip(actual, expected[:2], strict=True):
        assert torch.equal(mine.nan_to_num(-1.0), other.nan_to_num(-1.0))
