"""Triton kernels that move scales between rows and the tiled layouts of `kernels/swizzle.py`.

A program moves one row of TILE_R x TILE_C tiles, COLS columns of them: rows are read in runs of COLS bytes, tiles
are consecutive in the tiled layout, and the permutation in between happens on chip.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from narrowgauge.kernels._triton import jit, tl

TILES = {"128x4": (128, 4), "gfx950": (32, 8)}
"""Layout → rows and columns of its tile."""
PADDED = {"128x4": (128, 4), "gfx950": (256, 8)}
"""Layout → rows and columns of which the padded matrix has multiples."""


@jit
def tiled_order(x, LAYOUT: tl.constexpr, COLS: tl.constexpr):
    """[TILE_R, COLS] rows of scales as the [TILE_R * COLS] bytes of their tiles."""
    if LAYOUT == "128x4":
        return x.reshape((4, 32, COLS // 4, 4)).permute((2, 1, 0, 3)).reshape((128 * COLS,))
    else:
        return x.reshape((2, 16, COLS // 8, 2, 4)).permute((2, 4, 1, 3, 0)).reshape((32 * COLS,))


@jit
def row_order(x, LAYOUT: tl.constexpr, COLS: tl.constexpr):
    """The inverse of `tiled_order`."""
    if LAYOUT == "128x4":
        return x.reshape((COLS // 4, 32, 4, 4)).permute((2, 1, 0, 3)).reshape((128, COLS))
    else:
        return x.reshape((COLS // 8, 4, 16, 2, 2)).permute((4, 2, 0, 3, 1)).reshape((32, COLS))


@jit
def swizzle_kernel(rows_ptr, tiles_ptr, rows, cols, padded_cols, stride_r, stride_c, LAYOUT: tl.constexpr,
                   INVERSE: tl.constexpr, TILE_R: tl.constexpr, COLS: tl.constexpr):  # fmt: skip
    """Rows to tiles, with zeros for what the matrix does not have, or tiles to rows."""
    tile_r = tl.program_id(0).to(tl.int64)
    start_c = tl.program_id(1) * COLS
    offs_r = tile_r * TILE_R + tl.arange(0, TILE_R)
    offs_c = (start_c + tl.arange(0, COLS)).to(tl.int64)
    inside = (offs_r < rows)[:, None] & (offs_c < cols)[None, :]
    row_ptrs = rows_ptr + offs_r[:, None] * stride_r + offs_c[None, :] * stride_c
    offs_t = tl.arange(0, TILE_R * COLS)
    tile_ptrs = tiles_ptr + (tile_r * padded_cols + start_c) * TILE_R + offs_t
    in_tiles = offs_t < (padded_cols - start_c) * TILE_R
    if INVERSE:
        tl.store(row_ptrs, row_order(tl.load(tile_ptrs, mask=in_tiles, other=0), LAYOUT, COLS), mask=inside)
    else:
        tl.store(tile_ptrs, tiled_order(tl.load(row_ptrs, mask=inside, other=0), LAYOUT, COLS), mask=in_tiles)


def launch(rows: Tensor, tiles: Tensor, padded: tuple[int, int], layout: str, inverse: bool) -> None:
    """Fills `tiles` from `rows` [R, C], or `rows` from `tiles` where `inverse`. padded: sizes of the tiled matrix."""
    constants = constants_of(layout, inverse, rows.shape[1])
    grid = (padded[0] // constants["TILE_R"], -(-padded[1] // constants["COLS"]))
    if grid[0] and grid[1]:
        swizzle_kernel[grid](rows, tiles, *rows.shape, padded[1], *rows.stride(), **constants)


def constants_of(layout: str, inverse: bool, cols: int) -> dict[str, Any]:
    """Compile-time constants of a launch: up to 4096 bytes for 128 threads, no wider than the matrix asks for."""
    tile_r, tile_c = TILES[layout]
    widest = 4096 // tile_r
    needed = 1 << (-(-cols // tile_c) * tile_c - 1).bit_length()
    return {"LAYOUT": layout, "INVERSE": inverse, "TILE_R": tile_r, "COLS": max(tile_c, min(widest, needed))}
