"""The cut of a tensor into programs of the quantize kernels: a pure function."""

from __future__ import annotations

import pytest

from narrowgauge.formats import parse
from narrowgauge.kernels._quantize_plan import (
    FUSED_ELEMENTS,
    STAGED_ELEMENTS,
    Tiling,
    pair_plan,
    plan,
    tiling,
    turned_plan,
)

SCHEMES = ("e4m3fn", "e4m3fn/row", "e4m3fn/col", "e4m3fn/1x128", "e4m3fn/128x128", "int8/32x32", "int8/24x5", "mxfp8")
SHAPES = [(1, 1), (1, 4096), (4096, 4096), (4096, 11008), (37, 160), (3, 100000), (0, 7), (7, 0)]


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def holds_whole_tiles(cut: Tiling, block_m: int, block_k: int, shape: tuple[int, int]) -> bool:
    sides = zip((cut.tile_m, cut.tile_k), (cut.unit_m, cut.unit_k), (block_m, block_k), shape, strict=True)
    return all((tile == unit) if tile else block >= size for tile, unit, block, size in sides)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_programs_hold_whole_tiles_and_fit(scheme: str, shape: tuple[int, int]) -> None:
    cut = plan(*shape, parse(scheme))
    assert is_power_of_two(cut.block_m)
    assert is_power_of_two(cut.block_k)
    assert cut.block_m * cut.block_k <= (FUSED_ELEMENTS if cut.kind == "fused" else STAGED_ELEMENTS)
    if cut.kind == "fused":
        assert holds_whole_tiles(cut.tiling, cut.block_m, cut.block_k, shape)


@pytest.mark.parametrize("pair", [(a, b) for a in SCHEMES for b in SCHEMES])
@pytest.mark.parametrize("shape", SHAPES)
def test_programs_of_two_schemes_hold_whole_tiles_of_both_and_fit(
    pair: tuple[str, str], shape: tuple[int, int]
) -> None:
    cut = pair_plan(*shape, parse(pair[0]), parse(pair[1]))
    assert is_power_of_two(cut.block_m)
    assert is_power_of_two(cut.block_k)
    assert cut.block_m * cut.block_k <= FUSED_ELEMENTS
    if cut.kind == "fused":
        assert holds_whole_tiles(cut.tiling, cut.block_m, cut.block_k, shape)
        assert holds_whole_tiles(cut.turned, cut.block_m, cut.block_k, shape)


def test_rows_and_blocks_are_fused_and_whole_tensors_are_not() -> None:
    assert plan(4096, 4096, parse("e4m3fn/row")).kind == "fused"
    assert plan(4096, 16384, parse("e4m3fn/row")).kind == "fused"
    assert plan(4096, 4096, parse("e4m3fn/128x128")).kind == "fused"
    assert plan(4096, 4096, parse("e4m3fn")).kind == "staged"
    assert plan(4096, 4096, parse("nvfp4")).kind == "fused"
    assert plan(4096, 4096, parse("nvfp4:rceil")).kind == "staged"


def test_columns_are_fused_where_a_program_holds_some_neighbours_in_memory() -> None:
    assert plan(4096, 4096, parse("e4m3fn/col")).kind == "staged"
    assert plan(512, 4096, parse("e4m3fn/col")).kind == "fused"
    assert plan(512, 4096, parse("e4m3fn/col")).block_k == 32
    assert plan(4096, 4096, parse("e4m3fn/col"), column_major=True).kind == "fused"
    assert plan(4096, 4096, parse("e4m3fn/row"), column_major=True).kind == "staged"
    assert plan(4096, 50000, parse("e4m3fn/row"), column_major=True).kind == "staged"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_column_major_tensor_is_cut_like_its_transpose(scheme: str, shape: tuple[int, int]) -> None:
    spec = parse(scheme)
    cut = plan(*shape, spec, column_major=True)
    assert cut.block_m * cut.block_k <= (FUSED_ELEMENTS if cut.kind == "fused" else STAGED_ELEMENTS)
    assert cut.block_m >= min(32, shape[0])
    if cut.kind == "fused":
        assert holds_whole_tiles(cut.tiling, cut.block_m, cut.block_k, shape)


def test_long_rows_are_read_twice_by_one_program_where_there_are_enough_of_them() -> None:
    assert plan(4096, 50000, parse("e4m3fn/row")).kind == "rows"
    assert plan(4096, 50000, parse("e4m3fn/1x65536")).kind == "rows"
    assert plan(4096, 50000, parse("e4m3fn/1x32768")).kind == "staged"
    assert plan(3, 50000, parse("e4m3fn/row")).kind == "staged"
    assert plan(4096, 1 << 20, parse("e4m3fn/row")).kind == "staged"


@pytest.mark.parametrize(
    ("pair", "kind"),
    [
        (("e4m3fn/1x128", "e4m3fn/1x128"), "fused"),
        (("e4m3fn/1x128", "e4m3fn/128x128"), "fused"),
        (("mxfp8", "mxfp8"), "fused"),
        (("mxfp8", "e4m3fn/1x128"), "fused"),
        (("e4m3fn/row", "e4m3fn/row"), "staged"),
        (("e4m3fn/128x128", "e4m3fn"), "staged"),
        (("nvfp4", "nvfp4"), "fused"),
        (("nvfp4:rceil", "nvfp4"), "staged"),
        (("e4m3fn/1x4096", "e4m3fn/4096x1"), "staged"),
    ],
)
def test_which_pairs_take_one_read(pair: tuple[str, str], kind: str) -> None:
    assert pair_plan(4096, 4096, parse(pair[0]), parse(pair[1])).kind == kind


def test_units_lie_within_one_tile() -> None:
    assert tiling((4096, 4096), (1, None), 8, 512) == Tiling(1, 0, 1, 512)
    assert tiling((4096, 4096), (128, 128), 64, 512) == Tiling(128, 128, 64, 128)
    assert tiling((4096, 4096), (24, 5), 64, 512) == Tiling(24, 5, 1, 1)
    assert tiling((100, 100), (128, 128), 64, 512) == Tiling(0, 0, 64, 512)
    assert tiling((4096, 4096), (384, 96), 64, 32) == Tiling(384, 96, 64, 32)


@pytest.mark.parametrize("scheme", [*SCHEMES, "nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_read_along_columns_is_cut_into_blocks_that_are_wide_and_high(
    scheme: str, shape: tuple[int, int]
) -> None:
    cut = turned_plan(*shape, parse(scheme))
    assert cut.block_m * cut.block_k <= FUSED_ELEMENTS
    assert cut.block_m >= min(32, shape[0])
    assert cut.block_k >= min(32, shape[1])
    if cut.kind == "fused":
        assert holds_whole_tiles(cut.tiling, cut.block_m, cut.block_k, shape)
