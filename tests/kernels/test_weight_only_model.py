"""The model of weight_only_gemm: which launch it takes on targets that are not there."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import parse
from narrowgauge.kernels._gemm_plan import INTERPRETER
from narrowgauge.kernels._weight_only_model import seconds
from narrowgauge.kernels._weight_only_plan import Shape, candidates, way_of

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
SCHEMES = ("int8/row", "int4/1x128", "int4/1x32", "nf4/1x64", "mxfp4", "nvfp4", "e4m3fn/row", "int8/1x24", "int6/4x24")


@pytest.mark.parametrize("target", [*TARGETS, INTERPRETER])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_shape_has_a_launch_that_covers_it(scheme: str, target: str) -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        way = way_of(parse(scheme), dtype, parse(scheme).element.bits < 8, False, target)
        for t, n, k in ((1, 4096, 4096), (16, 11008, 4096), (700, 4096, 11008), (1, 1, 1), (5, 3, 0), (9, 8192, 50)):
            shape = Shape(t, n, k)
            found = candidates(shape, way, target)
            best = min(found, key=lambda how: seconds(shape, way, how, target))
            assert seconds(shape, way, best, target) < float("inf")
            assert best.splits * best.steps(k, way) >= best.blocks(k, way)
            assert (best.splits - 1) * best.steps(k, way) < max(best.blocks(k, way), 1)
            assert best.kernel == "rows" or best.block_k <= max(way.tile, 32) or way.where("dot") != "runs"


def test_one_row_needs_no_tensor_core_and_many_do() -> None:
    way = way_of(parse("int4/1x128"), torch.bfloat16, True, False, "sm_90")

    def best(t: int, n: int = 4096) -> str:
        shape = Shape(t, n, 4096)
        return min(candidates(shape, way, "sm_90"), key=lambda how: seconds(shape, way, how, "sm_90")).kernel

    assert best(1) == "rows"
    assert best(64) == best(1024) == "dot"


def test_few_tiles_split_the_sum() -> None:
    way = way_of(parse("int8/row"), torch.bfloat16, False, False, "sm_90")

    def splits(n: int) -> int:
        shape = Shape(16, n, 16384)
        return min(candidates(shape, way, "sm_90"), key=lambda how: seconds(shape, way, how, "sm_90")).splits

    assert splits(512) > 1
    assert splits(65536) == 1
