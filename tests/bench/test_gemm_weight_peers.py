"""Peers of products with a narrow weight multiply the values of our codes."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.gemm_check import check_product
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.gemm_weight_peers import bitsandbytes_nf4, int4pack_mm, int8pack_mm
from narrowgauge.bench.model_shapes import Problem

UNITS = ("float32",)


def inputs_of(n: int = 64, k: int = 256, dtype: torch.dtype = torch.float32) -> Inputs:
    return Inputs(Problem("p", 3, n, k), "cpu", dtype, seed=0)


@pytest.mark.parametrize("make", [int8pack_mm, int4pack_mm])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_kernels_of_torch(make, dtype: torch.dtype, most: float) -> None:
    inputs = inputs_of(dtype=dtype)
    racer = make(UNITS, inputs)
    assert check_product(racer.call(), racer.operands, 256, racer.rounding) < most
    assert racer.bytes < inputs.x.nbytes + 64 * 256 * 1.2 + 3 * 64 * 4


def test_whole_groups_only() -> None:
    with pytest.raises(ValueError, match="takes N in multiples of 16 and K in multiples of 128"):
        int4pack_mm(UNITS, inputs_of(k=192))


def test_bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes")
    racer = bitsandbytes_nf4(UNITS, inputs_of())
    assert check_product(racer.call(), racer.operands, 256, racer.rounding) < 0.01
    with pytest.raises(ValueError, match="K in multiples of 64"):
        bitsandbytes_nf4(UNITS, inputs_of(k=96))
