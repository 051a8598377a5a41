from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import parse
from narrowgauge.kernels._fused_quantize_plan import HELD, FusedPlan, fused_plan, prologue_layout
from narrowgauge.kernels.prologues import PROLOGUES

SHAPES = [(1, 1), (4096, 4096), (7, 131), (3, 16384), (5, 16385), (100000, 48), (2, 20480)]
SCHEMES = ["e4m3fn", "e4m3fn/row", "int8/col", "mxfp8", "nvfp4", "e4m3fn/128x128", "rf8/4x24", "mx6"]


def plan(name: str, scheme: str, rows: int, columns: int) -> FusedPlan:
    prologue = PROLOGUES[name]
    return fused_plan(rows, prologue.width(columns), parse(scheme), prologue)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["hadamard128", "rmsnorm", "silu_mul"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_program_holds_what_its_prologue_and_tiles_need(name: str, scheme: str, shape: tuple[int, int]) -> None:
    cut, block = plan(name, scheme, *shape), PROLOGUES[name].block
    assert cut.block_m * cut.block_k <= HELD
    assert cut.block_k % block == 0
    assert 4 <= cut.num_warps <= 16
    if cut.norm == "inside":
        assert cut.block_k >= shape[1]
    if cut.fused:
        for side, held, size in zip(parse(scheme).factor_tile, (cut.block_m, cut.block_k), shape, strict=True):
            whole = size if side is None else min(side, size)
            assert held >= whole
            assert held % whole == 0 or held >= size


def test_rows_and_mx_blocks_take_one_launch() -> None:
    assert all(plan(name, scheme, 4096, 4096).fused for name in PROLOGUES for scheme in ("e4m3fn/row", "mxfp8"))


def test_columns_and_whole_tensors_take_several() -> None:
    assert not any(plan(name, scheme, 4096, 4096).fused for name in PROLOGUES for scheme in ("e4m3fn", "int8/col"))


def test_norms_of_rows_that_no_program_holds_are_given() -> None:
    assert plan("rmsnorm", "e4m3fn/row", 8, HELD).norm == "inside"
    assert plan("rmsnorm", "mxfp8", 8, HELD + 1).norm == "given"
    assert plan("gelu", "mxfp8", 8, HELD + 1).norm == "none"


@pytest.mark.parametrize(("weights", "period"), [(None, -1), (48, 0), (16, 16)])
def test_weight_of_every_column_or_of_every_block(weights: int | None, period: int) -> None:
    layout = prologue_layout(PROLOGUES["hadamard16"], "none", torch.bfloat16, 48, weights, False)
    assert layout.period == period
    assert layout.rounding == "bf16"
