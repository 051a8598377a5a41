"""The Triton kernels of weight_only_gemm in the interpreter, with launches that the model would not take there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats import parse, quantize_reference
from narrowgauge.kernels import _weight_only_triton as kernels
from narrowgauge.kernels import pack
from narrowgauge.kernels._gemm_plan import INTERPRETER
from narrowgauge.kernels._weight_only_kernel import join_kernel
from narrowgauge.kernels._weight_only_plan import Launch, way_of
from narrowgauge.kernels._weight_only_torch import Weight
from narrowgauge.kernels.quantize import stored_scale
from narrowgauge.kernels.weight_only import WEIGHT_ONLY_GEMM

LAUNCHES = (
    Launch("rows", 4, 8, 64, 1, 4, 2), Launch("rows", 2, 16, 64, 2, 4, 2),
    Launch("dot", 16, 64, 32, 1, 4, 3), Launch("dot", 16, 32, 32, 3, 4, 3),
)  # fmt: skip
SCHEMES = (
    "int8/row",
    "int4/1x32",
    "nf4/1x64",
    "mxfp4",
    "nvfp4",
    "mx6",
    "int6/1x24",
    "int4/1x40",
    "int8/3x48",
    "int8/col",
)


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("the kernels run in the interpreter here, on other devices in the conformance suite")


@pytest.mark.parametrize("how", LAUNCHES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_launch_is_within_the_bound(scheme: str, how: Launch) -> None:
    spec, rng, (t, n, k) = parse(scheme), np.random.default_rng(3), (3, 19, 104)
    zero = scheme in ("int4/1x32", "int4/1x40", "int8/3x48")
    q = quantize_reference(rng.standard_normal((n, k)).astype(np.float32), scheme)
    packed, codes = spec.element.bits < 8, torch.from_numpy(q.codes)
    scale, bias = stored_scale(q), torch.arange(float(n))
    point = torch.from_numpy(rng.integers(0, 9, scale.shape).astype(np.float32)) if zero else None
    outer = torch.from_numpy(q.outer) if spec.two_level else None
    weight = Weight(pack(codes, spec.element.bits) if packed else codes, scale, outer, point, spec, k, packed)
    way = way_of(spec, torch.float32, packed, zero, INTERPRETER)
    x, out = torch.from_numpy(rng.standard_normal((t, k)).astype(np.float32)), torch.empty(t, n)
    kernels.run(x, weight, kernels.read_scale(weight, way), bias, out, way, how)
    call = (x, weight.codes, scale, outer, point, scheme, k, packed, bias, torch.float32)
    error = (out.double() - WEIGHT_ONLY_GEMM.reference(*call)).abs()
    assert (error <= WEIGHT_ONLY_GEMM.bound.tolerance(*call)).all()


def test_parts_are_added_in_their_order() -> None:
    parts = torch.tensor([2.0**24, 1.0, 1.0]).view(3, 1, 1).expand(3, 4, 5).contiguous()
    out = torch.empty(4, 5)
    join_kernel[(1,)](parts, None, out, 20, 5, PARTS=3, BLOCK=kernels.JOIN_BLOCK)
    assert (out == 2.0**24).all()
    join_kernel[(1,)](parts.flip(0).contiguous(), None, out, 20, 5, PARTS=3, BLOCK=kernels.JOIN_BLOCK)
    assert (out == 2.0**24 + 2).all()


def test_only_rows_that_reach_beyond_32_bits_are_copied() -> None:
    near = torch.empty((1 << 15, (1 << 16) - 1), dtype=torch.int8, device="meta").t()
    far = torch.empty((1 << 15, 1 << 16), dtype=torch.int8, device="meta").t()
    wide = torch.empty((1 << 16, 1 << 16), dtype=torch.int8, device="meta")
    assert kernels.with_near_columns(near) is near
    assert kernels.with_near_columns(wide) is wide
    assert far.stride() == (1, 1 << 16)
    assert kernels.with_near_columns(far).stride() == (1 << 15, 1)
