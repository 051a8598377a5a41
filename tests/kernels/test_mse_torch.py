"""The search of `mse` over one tile: the point of the definition, from bounds that hold and few candidates counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats import parse, quantize_reference
from narrowgauge.formats.clipping import COARSE, error_bits
from narrowgauge.kernels import _clipping_torch, _mse_torch
from narrowgauge.kernels._clipping_torch import mse_points
from narrowgauge.kernels._mse_torch import Float32Costs, steps_of
from narrowgauge.kernels._scales_torch import scales

SCHEMES = (
    "int8", "int4", "int8f6", "uint8", "e4m3fn", "e5m2", "e4m3fnuz", "e2m1fn", "rf8", "nf4", "posit8es1", "binary",
    "e4m3fn+ftz",
)  # fmt: skip


def scheme_of(name: str) -> str:
    fmt, _, option = name.partition("+")
    return f"{fmt}:mse" + (f"+{option}" if option else "")


def values_of(scheme: str):  # type: ignore[no-untyped-def]
    """x̂ in float64, by the formats themselves."""
    spec = parse(scheme)

    def values(x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        factor = scales(points, spec)[1]
        y = x.float() * factor.reciprocal()
        how = "flush" if spec.flush else "gradual"
        decoded = spec.element.decode(spec.element.encode(y.numpy(), subnormals=how))
        return torch.from_numpy(decoded) * factor.double()

    return values


def point(x: torch.Tensor, scheme: str, *, quick: bool) -> float:
    spec, amax = parse(scheme), x.float().abs().amax().view(1, 1)
    steps = steps_of(spec) if quick else None
    return float(mse_points(x, amax, spec.tile, values_of(scheme), 1 << 18, steps))


def expected_point(x: torch.Tensor, scheme: str) -> float:
    spec, scale = parse(scheme), quantize_reference(x.float().numpy(), scheme).scale
    found = [r for r in _every_ratio() if float(scales(x.float().abs().amax() * r, spec)[1]) == float(scale.item())]
    return float(x.float().abs().amax() * max(found))


def _every_ratio() -> list[float]:
    fine = [float(np.float32(2.0 ** (j / 16))) for j in range(-3, 4)]
    return [min(1.0, float(np.float32(c) * np.float32(f))) for c in COARSE for f in fine]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", SCHEMES)
def test_point_is_that_of_the_definition(name: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mse_torch, "BLOCK", 700)
    monkeypatch.setattr(_clipping_torch, "BLOCK", 700)
    scheme = scheme_of(name)
    rng = torch.Generator().manual_seed(3)
    normal = torch.randn(30, 71, generator=rng)
    heavy = normal * torch.exp(1.5 * torch.randn(30, 71, generator=rng))
    for x in (normal, heavy, normal.abs() * 1e-30, heavy * 1e25, normal.t(), normal[::2, 1::3], normal[:1, :1]):
        kept = x.clone()
        assert point(x, scheme, quick=quick) == expected_point(x, scheme)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["int8", "e4m3fn", "nf4"])
def test_narrow_inputs_are_searched_as_float32(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(50, 60, generator=torch.Generator().manual_seed(4)).to(dtype)
    assert point(x, f"{name}:mse", quick=True) == expected_point(x, f"{name}:mse")


def test_equal_costs_give_the_larger_point() -> None:
    # Powers of two are values of e4m3fn under every ratio that is one, too, until the largest clip or the least vanish.
    x = torch.tensor([[1.0, 0.5, -0.25, 0.125]])
    for quick in (True, False):
        assert point(7 * x, "e4m3fn:mse", quick=quick) == expected_point(7 * x, "e4m3fn:mse")
        assert point(127 * x.round(), "int8:mse", quick=quick) == 127.0


def test_tiles_without_a_search_keep_their_amax() -> None:
    spec = parse("int8:mse")
    for worst in (float("nan"), float("inf"), 0.0):
        amax = torch.full((1, 1), worst)
        found = mse_points(torch.full((2, 3), worst), amax, spec.tile, values_of("int8:mse"), 9, steps_of(spec))
        torch.testing.assert_close(found, amax, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
@pytest.mark.parametrize("name", SCHEMES)
def test_bounds_hold_the_exact_cost_and_are_close_to_it(name: str, size: float) -> None:
    scheme = scheme_of(name)
    x = torch.randn(3000, generator=torch.Generator().manual_seed(5)).view(1, -1) * size
    amax, bits, spec = x.abs().amax(), error_bits(x.numel()), parse(scheme)
    costs = Float32Costs(x, amax, steps_of(spec), bits)
    costs.sample(list(COARSE))
    for ratio in COARSE:
        relative = (values_of(scheme)(x, (amax * ratio).view(1, 1)).numpy() - x.double().numpy()) / float(amax)
        exact = int(np.rint(np.minimum(relative * relative, 1.0) * 2.0**bits).astype(np.int64).sum())
        low, high = costs.part(ratio, 0)
        assert low <= exact <= high
        assert high - low < 1e-3 * exact


def test_few_parts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mse_torch, "BLOCK", 1 << 12)
    counted = []
    part = Float32Costs.part
    monkeypatch.setattr(Float32Costs, "part", lambda self, r, i: counted.append(r) or part(self, r, i))
    x = torch.randn(256, 384, generator=torch.Generator().manual_seed(6))
    point(x, "int8:mse", quick=True)
    assert len(counted) < 38 * 24 / 3
