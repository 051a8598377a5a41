"""Tile geometry in torch: a tensor as a matrix of rows and columns, amax per tile, one factor per element."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from narrowgauge.formats.tiles import Tile


def as_matrix(x: Tensor) -> Tensor:
    """[rows, columns]: every axis but the last flattened (a copy only where strides demand one)."""
    if x.dim() == 2:
        return x
    return x.reshape(1, -1) if x.dim() < 2 else x.flatten(0, -2)


def is_column_major(x: Tensor) -> bool:
    """A 2-D tensor that is dense the other way round, like `.t()` of a contiguous one."""
    return x.dim() == 2 and not x.is_contiguous() and x.t().is_contiguous()


def empty_codes(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised codes for `x`: column-major where x is, else contiguous."""
    if is_column_major(x):
        return x.new_empty((x.shape[1], x.shape[0]), dtype=dtype).t()
    return x.new_empty(x.shape, dtype=dtype)


def tile_counts(shape: tuple[int, int] | torch.Size, tile: Tile) -> tuple[int, int]:
    """Tiles down and across."""
    rows, cols = (1 if side is None else -(-size // side) for size, side in zip(shape, tile, strict=True))
    return rows, cols


def _magnitude(x: Tensor, dim: int) -> Tensor:
    """max |x| over `dim`, in two reading passes and no temporary of that size; NaN comes through, -0 does not."""
    return torch.maximum(x.amax(dim), x.amin(dim).neg_()).abs_()


def column_amax(x: Tensor, width: int | None) -> Tensor:
    """max |x| of every run of `width` columns (None: all of them): [rows, runs]."""
    rows, cols = x.shape
    if cols == 0 or rows == 0:
        return x.new_zeros((rows, tile_counts((rows, cols), (1, width))[1]))
    if width == 1:
        return x.abs()
    if width is None or width >= cols:
        return _magnitude(x, 1).unsqueeze(1)
    whole = cols // width * width
    runs = _magnitude(x[:, :whole].unflatten(1, (-1, width)), 2)
    if whole == cols:
        return runs
    return torch.cat((runs, _magnitude(x[:, whole:], 1).unsqueeze(1)), dim=1)


def pooled_amax(x: Tensor, width: int, rows_at_once: int) -> Tensor:
    """`column_amax` for narrow runs, by pooling over blocks of rows: torch reduces short rows one by one, which is
    several times slower. Not for compilers, which fuse the plain form."""
    rows, cols = x.shape
    runs = x.new_empty((rows, -(-cols // width)), dtype=torch.float32)
    buffer = x.new_empty((min(rows, rows_at_once), cols), dtype=torch.float32)
    for start in range(0, rows, rows_at_once):
        part = x[start : start + rows_at_once]
        # One buffer for all blocks: new memory costs more than the arithmetic.
        magnitude = buffer[: part.shape[0]].copy_(part).abs_().unsqueeze(0)
        runs[start : start + rows_at_once] = torch.max_pool1d(magnitude, width, ceil_mode=True).squeeze(0)
    return runs


def row_amax(runs: Tensor, height: int) -> Tensor:
    """Maximum of every `height` rows of non-negative `runs`."""
    rows = runs.shape[0]
    if height == 1 or rows == 0:
        return runs
    padded = torch.nn.functional.pad(runs, (0, 0, 0, -rows % height))
    return padded.unflatten(0, (-1, height)).amax(1)


def group_amax(x: Tensor, tile: Tile, rows_at_once: int | None = None) -> Tensor:
    """max |x| of every tile, float32 [tiles down, tiles across]. rows_at_once: pool narrow runs in blocks of so many
    rows (eager CPU); None for the plain form that compilers fuse."""
    height, width = tile
    rows, cols = x.shape
    if height is None or height > rows:
        # Down first: one row of maxima is left for the rest.
        x = _magnitude(x, 0).unsqueeze(0) if rows and cols else x.new_zeros((min(1, rows) if height else 1, cols))
        height = 1
    narrow = width is not None and 1 < width <= 256 and width < cols
    if rows_at_once is not None and narrow and x.shape[0]:
        return row_amax(pooled_amax(x, width or 1, rows_at_once), height)
    return row_amax(column_amax(x, width), height).float()


def row_blocks(shape: torch.Size, height: int | None, elements: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of about so many elements that end where tiles do: (rows of the matrix, rows of the tiles' factors). The
    first is the largest."""
    rows, cols = shape
    step = max(1, elements // max(cols, 1))
    if height is not None:
        step = max(1, step // height) * height
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield slice(start, stop), slice(None) if height is None else slice(start // height, -(-stop // height))


def spread_rows(scale: Tensor, height: int | None, rows: int) -> Tensor:
    """One row of factors per row of the matrix (or a single one, to be broadcast)."""
    if height == 1 or height is None or height >= rows:
        return scale
    return scale.repeat_interleave(height, dim=0)[:rows]


def multiply_tiles(x: Tensor, factors: Tensor, tile: Tile) -> Tensor:
    """x [rows, cols] times its tile's factor, in place; `factors` [tiles down, tiles across]."""
    rows, cols = x.shape
    height, width = tile
    by_row = spread_rows(factors, height, rows)
    if width is None or width == 1 or width >= cols:
        return x.mul_(by_row)
    if cols % width == 0:
        x.unflatten(1, (-1, width)).mul_(by_row.unsqueeze(2))
        return x
    return x.mul_(by_row.repeat_interleave(width, dim=1)[:, :cols])
