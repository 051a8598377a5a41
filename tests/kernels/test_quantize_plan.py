"""The cut of a tensor into programs of the quantize kernels: a pure function."""

from __future__ import annotations

import pytest

from narrowgauge.formats import parse
from narrowgauge.kernels._quantize_plan import FUSED_ELEMENTS, plan

SCHEMES = ("e4m3fn", "e4m3fn/row", "e4m3fn/col", "e4m3fn/1x128", "e4m3fn/128x128", "int8/32x32", "int8/24x5", "mxfp8")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4096), (4096, 4096), (4096, 11008), (37, 160), (3, 100000)])
def test_programs_hold_whole_tiles_and_fit(scheme: str, shape: tuple[int, int]) -> None:
    cut = plan(*shape, parse(scheme))
    for size in (cut.block_m, cut.block_k):
        assert size & (size - 1) == 0
    assert cut.block_m * cut.block_k <= 2 * FUSED_ELEMENTS
    if cut.fused:
        assert cut.block_m % cut.tile_m == 0
        assert cut.block_k % cut.tile_k == 0
    else:
        assert cut.block_m * cut.block_k <= 4096


def test_rows_and_blocks_are_fused_and_whole_tensors_are_not() -> None:
    assert plan(4096, 4096, parse("e4m3fn/row")).fused
    assert plan(4096, 4096, parse("e4m3fn/128x128")).fused
    assert not plan(4096, 4096, parse("e4m3fn")).fused
    assert not plan(4096, 100000, parse("e4m3fn/row")).fused
    assert not plan(4096, 4096, parse("nvfp4")).fused
