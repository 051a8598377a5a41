"""Tiles: their names, and reductions and repeats over ragged matrices against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.formats.tiles import Tile, rows_cols, spread, tile_from_text, tile_max, tile_text

TEXTS = {
    "tensor": (None, None),
    "row": (1, None),
    "col": (None, 1),
    "1x128": (1, 128),
    "32x32": (32, 32),
    "1x1": (1, 1),
    "allx16": (None, 16),
    "16xall": (16, None),
}
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 11), (6, 8), (0, 4), (4, 0), (0, 0)]


@pytest.mark.parametrize(("text", "tile"), TEXTS.items())
def test_text_and_tile_name_each_other(text: str, tile: Tile) -> None:
    assert tile_from_text(text) == tile
    assert tile_text(tile) == text


def test_other_spellings_of_a_named_tile() -> None:
    assert tile_from_text("allxall") == (None, None)
    assert tile_from_text("1xall") == (1, None)


@pytest.mark.parametrize("text", ["", "rows", "0x4", "4x00", "-1x4", "1x", "1x2x3", "1 x 2", "1X2", "1.5x2", "Row"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^granularity: got '{text}', accepted: tensor, row, col, RxC as 1x128"):
        tile_from_text(text)


@pytest.mark.parametrize("tile", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("shape", SHAPES)
def test_maxima_and_repeats_follow_the_tiles(shape: tuple[int, int], tile: Tile, rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape)
    rows, cols = shape
    height, width = tile[0] or max(rows, 1), tile[1] or max(cols, 1)
    maxima = tile_max(x, tile)
    assert maxima.shape == (
        1 if tile[0] is None else -(-rows // height),
        1 if tile[1] is None else -(-cols // width),
    )
    for i, j in np.ndindex(maxima.shape):
        inside = x[i * height : (i + 1) * height, j * width : (j + 1) * width]
        assert maxima[i, j] == max(inside.max(initial=0.0), 0.0)
    wide = spread(maxima, tile, shape)
    assert wide.shape == shape
    for i, j in np.ndindex(shape):
        assert wide[i, j] == maxima[i // height, j // width]


def test_nan_and_infinities_come_through() -> None:
    x = np.array([[1.0, np.nan, 2.0, np.inf, -np.inf, 3.0]])
    assert np.array_equal(tile_max(x, (1, 2)), [[np.nan, np.inf, 3.0]], equal_nan=True)


def test_a_tile_larger_than_the_matrix_costs_no_memory() -> None:
    x = np.ones((2, 3))
    huge = (10**9, 10**9)
    assert tile_max(x, huge).tolist() == [[1.0]]
    assert spread(np.array([[7.0]]), huge, (2, 3)).tolist() == [[7.0] * 3] * 2


def test_everything_but_the_last_axis_is_rows() -> None:
    assert [rows_cols(shape) for shape in ((), (5,), (3, 5), (2, 3, 5), (0, 3, 5), (2, 3, 0))] == [
        (1, 1),
        (1, 5),
        (3, 5),
        (6, 5),
        (0, 5),
        (6, 0),
    ]
