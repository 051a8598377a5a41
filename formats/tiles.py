"""Tiles: which elements of a matrix share a scale. All axes of a tensor but the last count as rows."""

from __future__ import annotations

import re
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.rounding import FloatArray

Tile = tuple[int | None, int | None]
"""Rows and columns of a tile; None stands for all of them."""

NAMED_TILES: dict[str, Tile] = {"tensor": (None, None), "row": (1, None), "col": (None, 1)}
_SIDE = r"(\d+|all)"

T = TypeVar("T", bound=np.generic)


def tile_from_text(text: str) -> Tile:
    """The tile that `tensor`, `row`, `col` or `RxC` names (a side may be `all`); ValueError otherwise."""
    if text in NAMED_TILES:
        return NAMED_TILES[text]
    match = re.fullmatch(f"{_SIDE}x{_SIDE}", text)
    sides = [None if side == "all" else int(side) for side in match.groups()] if match else [0, 0]
    if 0 in sides:
        raise ValueError(f"granularity: got {text!r}, accepted: tensor, row, col, RxC as 1x128")
    return sides[0], sides[1]


def tile_text(tile: Tile) -> str:
    """The text that `tile_from_text` reads back."""
    for name, named in NAMED_TILES.items():
        if named == tile:
            return name
    rows, cols = tile
    return f"{rows or 'all'}x{cols or 'all'}"


def rows_cols(shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix shape of a tensor."""
    if not shape:
        return 1, 1
    return int(np.prod(shape[:-1], dtype=np.int64)), shape[-1]


def tile_count(size: int, side: int | None) -> int:
    """How many tiles of `side` cover an axis of `size`; 1 where a tile takes the whole axis."""
    return 1 if side is None else -(-size // side)


def tile_max(x: FloatArray, tile: Tile) -> FloatArray:
    """Largest element of every tile of a matrix, or 0 where that is larger; [tile rows, tile columns], NaN
    comes through."""
    return np.asarray(in_tiles(np.maximum(x, 0.0, dtype=np.float64), tile).max(axis=(1, 3)))


def in_tiles(x: NDArray[T], tile: Tile) -> NDArray[T]:
    """A matrix as [tile rows, height, tile columns, width], ragged edges filled up with zeros."""
    rows, cols = x.shape
    height, width = tile_sides(tile, x.shape)
    tall, wide = (tile_count(n, side) for side, n in zip(tile, x.shape, strict=True))
    padded = np.zeros((tall * height, wide * width), dtype=x.dtype)
    padded[:rows, :cols] = x
    return padded.reshape(tall, height, wide, width)


def spread(values: NDArray[T], tile: Tile, shape: tuple[int, ...]) -> NDArray[T]:
    """One value per tile, [tile rows, tile columns], repeated to one per element of a matrix of this
    shape."""
    rows, cols = shape
    height, width = tile_sides(tile, shape)
    return np.repeat(np.repeat(values, height, axis=0), width, axis=1)[:rows, :cols]


def tile_sides(tile: Tile, shape: tuple[int, ...]) -> tuple[int, int]:
    """Sides of a tile, no larger than the matrix."""
    height, width = (max(n, 1) if side is None else min(side, max(n, 1)) for side, n in zip(tile, shape, strict=True))
    return height, width
