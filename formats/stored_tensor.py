"""Quantised tensors of files as values, by what the file says alone (docs/checkpoints.md): no registered format or
scheme takes part.

    value = (values[code] - zero_point) · factor            float32, one rounding per operation
    factor = scale                                          float32 scales
           | values[scale code] · outer                     block formats (outer where there is one)
           | max(values[code's own bits] · 2^-tau, 2^-127)  one for each pair, tau from the bits above
           | values[scale code] · second + mean             double-quantised scales

A gain is divided out and a rotation undone last, in float32. Rows of a matrix may be read without the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.hadamard import rotate_back
from narrowgauge.formats.packing import unpack
from narrowgauge.formats.tiles import tile_count

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
SMALLEST_FACTOR = 2.0**-127
BLOCK = 1 << 18
"""Values decoded at a time: their indices take eight times the memory of a code."""


def values_of(formats: Mapping[str, Any], name: str) -> Float32Array:
    """float32 value of every code of a format of a file; ValueError for one that is not listed."""
    values = formats.get(name, {}).get("values")
    if values is None:
        raise ValueError(f"format {name!r}: the file has no values of it; it has {', '.join(formats)}")
    # float32 as kernels have them: what lies beyond it is infinite.
    with np.errstate(over="ignore"):
        return np.array([float(value) for value in values]).astype(np.float32)


class StoredTensor:
    """A quantised tensor of a file. entry: what the file says of it; formats: the section of that name; stored: the
    arrays that it consists of, by their names in the file.

    matrix: rows and columns of its values, as they were quantised but turned back. KeyError, IndexError, TypeError and
    ValueError, here or later, where the entry is none.
    """

    def __init__(self, entry: Mapping[str, Any], formats: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        if entry["packing"] not in ("none", "bits"):
            raise ValueError(f"packing: got {entry['packing']!r}, accepted: none, bits")
        self._entry = entry
        self._rows, self._cols = entry["matrix"]
        self._height, self._width = entry["tile"]
        self._per_group = self._rows // entry["groups"]
        self._table = values_of(formats, entry["element"])
        codes = stored[entry["codes"]]
        self._codes = codes.reshape(self._rows, codes.shape[-1] if codes.ndim else 1)
        self._factors = self._all_factors(formats, stored)
        self._zero_point = None if entry["zero_point"] is None else _flat(stored[entry["zero_point"]])
        columns = self._cols
        if entry["rotation"] and self._rows:
            # The last block was filled up.
            columns = int(np.prod(entry["shape"], dtype=np.int64)) // self._rows
        self.matrix = self._rows, columns

    def tensor(self) -> Float32Array:
        """All values, in the shape of the tensor."""
        values = self.rows(0, self._rows)
        if self._entry["transposed"]:
            values = np.ascontiguousarray(values.T)
        return values.reshape(self._entry["shape"])

    def rows(self, start: int, stop: int) -> Float32Array:
        """Rows start … stop - 1 of the matrix."""
        start, stop, _ = slice(start, stop).indices(self._rows)
        values = np.empty((max(stop - start, 0), self.matrix[1]), dtype=np.float32)
        step = max(1, BLOCK // max(self._cols, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(start, stop, step):
                last = min(first + step, stop)
                values[first - start : last - start] = self._block(first, last)
        return values

    def _block(self, start: int, stop: int) -> Float32Array:
        tiles = self._tile_rows(np.arange(start, stop))
        values = self._table[self._unsigned(self._codes[start:stop])]
        if self._zero_point is not None:
            values -= self._spread(self._zero_point[tiles])
        values *= self._spread(self._factors[tiles])
        if self._entry["gain"] != 1.0:
            values *= np.float32(1.0 / self._entry["gain"])
        if self._entry["rotation"]:
            signs = None if self._entry["signs"] is None else np.array(self._entry["signs"], dtype=np.float32)
            values = rotate_back(values, self._entry["rotation"], signs, self.matrix[1])
        return values

    def _tile_rows(self, row: IntArray) -> IntArray:
        """The row of factors of each row of the matrix. Groups of rows have tiles of their own."""
        height = self._height or max(self._per_group, 1)
        group, inside = np.divmod(row, max(self._per_group, 1))
        return group * tile_count(self._per_group, self._height) + inside // height

    def _unsigned(self, stored: NDArray[Any]) -> NDArray[Any]:
        if self._entry["packing"] == "none":
            return stored.view(np.uint8)
        return unpack(stored, self._entry["bits"], self._cols)

    def _spread(self, tiles: Float32Array) -> Float32Array:
        """One number per tile of each row as one per element, or one in all."""
        if self._width is None or tiles.shape[1] == self._cols:
            return tiles
        return np.repeat(tiles, self._width, axis=1)[:, : self._cols]

    def _all_factors(self, formats: Mapping[str, Any], stored: Mapping[str, NDArray[Any]]) -> Float32Array:
        """Of every tile: [tiles down, tiles across]."""
        entry, scale = self._entry, _flat(stored[self._entry["scale"]])
        if double := entry["double"]:
            run = np.arange(scale.size).reshape(scale.shape) // double["run"]
            factors = values_of(formats, double["format"])[scale] * stored[double["second"]][run]
            return factors + stored[double["mean"]]
        if entry["scale_format"] is None:
            return scale
        # Codes of more than 8 bits are stored as signed integers: the bits count.
        bits, wide = formats[entry["scale_format"]]["bits"], scale.astype(np.int64) & ((1 << 8 * scale.itemsize) - 1)
        own = values_of(formats, entry["scale_format"])[wide & ((1 << bits) - 1)]
        if entry["outer"] is not None:
            outer = stored[entry["outer"]].reshape(-1)
            own = own * np.repeat(outer, len(own) // len(outer))[:, np.newaxis]
        return own if entry["micro"] is None else self._pair_factors(wide >> bits, own, entry["micro"])

    def _pair_factors(self, above: IntArray, own: Float32Array, micro: Mapping[str, int]) -> Float32Array:
        """A factor for every `size` columns; above: the bits above the scale's own, the first exponent lowest."""
        shifts = micro["bits"] * np.arange(micro["count"])
        tau = above[..., np.newaxis] >> shifts & ((1 << micro["bits"]) - 1)
        factors = np.maximum(np.ldexp(own[..., np.newaxis].astype(np.float64), -tau), SMALLEST_FACTOR)
        flat = factors.reshape(len(own), own.shape[1] * micro["count"])
        return flat[:, : tile_count(self._cols, micro["size"])].astype(np.float32)


def _flat(grid: NDArray[Any]) -> NDArray[Any]:
    """All axes but the last as one."""
    return grid.reshape(int(np.prod(grid.shape[:-1], dtype=np.int64)), grid.shape[-1])
