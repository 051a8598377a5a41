"""Stored tensors: rows one by one, and every key of an entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats.hadamard import rotate, signs
from narrowgauge.formats.packing import pack
from narrowgauge.formats.stored_tensor import StoredTensor, values_of

SECTION = {
    "int4": {"bits": 4, "values": [*map(float, range(8)), *map(float, range(-8, 0))]},
    "e5m2": {"bits": 8, "values": ["nan" if v != v else v for v in formats.get("e5m2").values().tolist()]},
    "wide": {"bits": 16},
}


def entry(shape: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """Of int4 codes with a scale for each row."""
    rows = int(np.prod(shape[:-1]))
    plain = {
        "shape": list(shape), "matrix": [rows, shape[-1]], "transposed": False, "groups": 1, "element": "int4",
        "bits": 4, "packing": "bits", "codes": "c", "scale": "s", "outer": None, "zero_point": None, "tile": [1, None],
        "scale_format": None, "micro": None, "double": None, "gain": 1.0, "rotation": 0, "signs": None,
    }  # fmt: skip
    return plain | changes


@pytest.fixture
def codes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-8, 8, (6, 10))


def stored(codes: np.ndarray, scale: np.ndarray, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"c": pack(codes, 4), "s": scale.astype(np.float32), **more}


def test_rows_are_those_of_the_whole(codes: np.ndarray, rng: np.random.Generator) -> None:
    scale = rng.random((6, 1))
    tensor = StoredTensor(entry((2, 3, 10)), SECTION, stored(codes, scale))
    expected = codes.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(tensor.tensor(), expected.reshape(2, 3, 10))
    assert tensor.matrix == (6, 10)
    for start, stop in ((0, 6), (2, 5), (5, 5), (4, 99)):
        np.testing.assert_array_equal(tensor.rows(start, stop), expected[start:stop])


def test_blocks_of_rows_are_decoded_one_after_another(
    codes: np.ndarray, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = stored(codes, rng.random((3, 4)))
    whole = StoredTensor(entry((6, 10), tile=[2, 3]), SECTION, parts).tensor()
    monkeypatch.setattr("narrowgauge.formats.stored_tensor.BLOCK", 25)
    np.testing.assert_array_equal(StoredTensor(entry((6, 10), tile=[2, 3]), SECTION, parts).tensor(), whole)


@pytest.mark.parametrize("height", [None, 1, 2, 3])
def test_groups_have_tiles_of_their_own(height: int | None, codes: np.ndarray, rng: np.random.Generator) -> None:
    down = {None: 1, 1: 3, 2: 2, 3: 1}[height]
    scale = rng.random((2 * down, 1)).astype(np.float32)
    tensor = StoredTensor(entry((6, 10), groups=2, tile=[height, None]), SECTION, stored(codes, scale)).tensor()
    row = np.arange(6)
    factor = scale[row // 3 * down + (row % 3 // height if height else 0)]
    np.testing.assert_array_equal(tensor, codes.astype(np.float32) * factor)


def test_a_matrix_that_was_turned_over_and_one_of_more_axes(codes: np.ndarray) -> None:
    parts = stored(codes, np.ones((6, 1)))
    over = StoredTensor(entry((10, 6), matrix=[6, 10], transposed=True), SECTION, parts).tensor()
    np.testing.assert_array_equal(over, codes.T)
    image = StoredTensor(entry((6, 5, 2), matrix=[6, 10]), SECTION, parts).tensor()
    np.testing.assert_array_equal(image, codes.reshape(6, 5, 2))


def test_gains_are_divided_out_and_rotations_turned_back(rng: np.random.Generator) -> None:
    codes, sign = rng.integers(-8, 8, (6, 16)), signs(8, 1, 2)
    changes = {"matrix": [6, 16], "gain": 0.75, "rotation": 8, "signs": sign.tolist()}
    tensor = StoredTensor(entry((6, 11), **changes), SECTION, stored(codes, np.ones((6, 1))))
    assert tensor.matrix == (6, 11)
    again = rotate(np.pad(tensor.tensor(), ((0, 0), (0, 5))), 8, sign)
    whole = StoredTensor(entry((6, 16), **changes), SECTION, stored(codes, np.ones((6, 1)))).tensor()
    np.testing.assert_allclose(rotate(whole, 8, sign), codes / 0.75, atol=1e-5)
    np.testing.assert_array_equal(whole[:, :11], tensor.tensor())
    assert again.shape == (6, 16)


def test_values_are_float32_as_kernels_have_them() -> None:
    section = {"odd": {"bits": 2, "values": [1e60, "nan", "-inf", 0.1]}}
    np.testing.assert_array_equal(values_of(section, "odd"), np.array([np.inf, np.nan, -np.inf, 0.1], np.float32))
    with pytest.raises(ValueError, match="format 'wide': the file has no values of it; it has int4, e5m2, wide"):
        values_of(SECTION, "wide")


def test_unknown_packings_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(ValueError, match="packing: got 'trits', accepted: none, bits"):
        StoredTensor(entry((6, 10), packing="trits"), SECTION, stored(codes, np.ones((6, 1))))
