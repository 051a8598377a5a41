"""The grid of an element format in torch: nearest level, its code, and the distance to the next rounding border.

Quantisers scale a weight to y, in units of the format's values; a level is the value nearest to y. Integers round
half to even and clamp; `binary` is the sign with sign(0) = +1; `ternary` is RN(y) clamped to ±1; other tables take the
nearer neighbour, the lower one at a tie.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Format, IntFormat
from narrowgauge.formats.sign import BinaryFormat


class LevelGrid:
    """Ascending distinct values of `element` and their codes. ValueError for formats of more than 8 bits."""

    def __init__(self, element: Format) -> None:
        if element.bits > 8:
            raise ValueError(f"element: {element.name} has {element.bits} bits, accepted: at most 8")
        self.element = element
        self._code_dtype = torch.int8 if np.issubdtype(element.code_dtype, np.signedinteger) else torch.uint8
        if isinstance(element, IntFormat):
            codes = np.arange(element.min_code, element.max_code + 1)
            values = codes * element.step
        else:
            table = element.values()
            finite = np.flatnonzero(np.isfinite(table))
            values, first = np.unique(table[finite], return_index=True)
            codes = finite[first]
        self._values = [float(v) for v in values]
        self._codes = [int(c) for c in codes]
        self._borders = [0.5 * (a + b) for a, b in zip(self._values, self._values[1:], strict=False)]

    @property
    def magnitudes(self) -> list[float]:
        """The levels that are not negative, ascending."""
        return [value for value in self._values if value >= 0]

    def nearest(self, y: Tensor) -> Tensor:
        """The level of every element of `y`, in the dtype of `y`. NaN stays NaN for integers."""
        if isinstance(self.element, IntFormat) and self.element.step == 1.0:
            return y.round().clamp(self._values[0], self._values[-1])
        if isinstance(self.element, BinaryFormat):
            return torch.where(y >= 0, 1.0, -1.0).to(y.dtype)
        if self._values == [-1.0, 0.0, 1.0]:
            return y.round().clamp(-1.0, 1.0)
        return self._of(self._values, y, y.dtype)[self._rank(y)]

    def codes(self, levels: Tensor) -> Tensor:
        """Codes of values that are levels: uint8, or int8 for signed integers."""
        return self._of(self._codes, levels, self._code_dtype)[self._rank(levels)]

    def border_distance(self, y: Tensor) -> Tensor:
        """How far `y` is from the next point where its level changes: 0 on the border, 1 on a level (of an even grid);
        in units of half the gap that the border divides. Beyond the outermost levels it keeps growing."""
        infinity = [float("inf")]
        gaps = [b - a for a, b in zip(self._values, self._values[1:], strict=False)]
        rank = self._rank(y)
        below = self._of([-infinity[0], *self._borders], y, y.dtype)[rank]
        above = self._of(self._borders + infinity, y, y.dtype)[rank]
        gap_below = self._of([1.0, *gaps], y, y.dtype)[rank]
        gap_above = self._of([*gaps, 1.0], y, y.dtype)[rank]
        return torch.minimum(2 * (y - below) / gap_below, 2 * (above - y) / gap_above)

    def _rank(self, y: Tensor) -> Tensor:
        return torch.bucketize(y.contiguous(), self._of(self._borders, y, y.dtype))

    @staticmethod
    def _of(numbers: list[float] | list[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.tensor(numbers, device=like.device, dtype=dtype)


@lru_cache(maxsize=64)
def level_grid(element: Format) -> LevelGrid:
    """The `LevelGrid` of a format, made once."""
    return LevelGrid(element)
