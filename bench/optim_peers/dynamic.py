"""Codes from tables: the 8-bit dynamic maps, and three states of 4 bits and less.

    s = max|x| of a group      code = nearest value of the table to x / s      x̂ = table[code] · s

* bitsandbytes (Dettmers et al., arXiv 2110.02861): groups of 256, signed and unsigned dynamic map. Where the nearest
  value of m has the other sign, the kernel moves one code. Tensors below 4096 elements stay float32 there; not here.
* torchao's 8-bit states: the same maps and groups, no care for the sign.
* torchao's 4-bit states: groups of 128, a signed dynamic map and, for v, i / 16 without a zero.
* lpmm (Li et al., arXiv 2309.01507): the same two tables; v of a matrix is divided by min(row maximum, column
  maximum) instead ("rank-1"), other shapes have groups of 128. Flat tensors that `WIDTH` divides are taken for
  matrices of that many columns, because the data of the suite are.

Nothing keeps a small v from zero in the 8-bit maps (smallest value 3.25e-7 of the largest); without a zero, in 4 bits,
it becomes 1/16 of the largest instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from narrowgauge.bench.optim_peers.arrays import (
    Codes,
    Float32Array,
    amax,
    grouped,
    nearest_codes,
    or_one,
    quiet,
    ungrouped,
    values_of,
)
from narrowgauge.formats import pack, unpack

WIDTH = 256
SIGNED_4BIT = (
    -0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0,
    0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1.0,
)  # fmt: skip
LINEAR_4BIT = tuple(i / 16 for i in range(1, 17))


@lru_cache(maxsize=8)
def table_of(name: str) -> tuple[float, ...]:
    """The ascending values of a registered codebook."""
    return tuple(float(value) for value in values_of(name))


class Tabled(NamedTuple):
    """Codes (packed below 8 bits) and scales [groups, 1] of one moment."""

    codes: Codes
    scale: Float32Array


@dataclass(frozen=True)
class Table8:
    """Both moments in 8-bit dynamic maps; keeps_sign: as bitsandbytes does for m."""

    name: str
    keeps_sign: bool
    group: int = 256

    stochastic = False

    @property
    def bytes_per_parameter(self) -> float:
        """Of both moments."""
        return 2 * (1 + 4 / self.group)

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Tabled, Tabled, tuple[int, ...]]:
        """Both moments and their shape."""
        groups = grouped(m, self.group)
        table = table_of("dynamic8")
        first = _tabled(groups, table)
        if self.keeps_sign:
            codes = first.codes.astype(np.int16)
            wrong = np.signbit(values_of("dynamic8")[first.codes]) != np.signbit(groups)
            codes += np.where(wrong, np.where(np.signbit(groups), -1, 1), 0).astype(np.int16)
            first = first._replace(codes=codes.astype(np.uint8))
        return first, _tabled(grouped(v, self.group), table_of("udynamic8")), m.shape

    @quiet
    def load(self, state: tuple[Tabled, Tabled, tuple[int, ...]]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        first, second, shape = state
        m = values_of("dynamic8")[first.codes] * first.scale
        v = values_of("udynamic8")[second.codes] * second.scale
        return ungrouped(m, shape), ungrouped(v, shape)


@dataclass(frozen=True)
class Table4:
    """Both moments in 4 bits; rank_one: v of a matrix is scaled by rows and columns."""

    name: str
    rank_one: bool
    group: int = 128

    stochastic = False

    @property
    def bytes_per_parameter(self) -> float | None:
        """Of both moments; None for rank-1 scales, which depend on the shape."""
        return None if self.rank_one else 1 + 8 / self.group

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Tabled, Any, tuple[int, ...]]:
        """Both moments and their shape."""
        first = _packed(_tabled(grouped(m, self.group), SIGNED_4BIT))
        matrix = self._matrix(v)
        if matrix is None:
            return first, _packed(_tabled(grouped(v, self.group), LINEAR_4BIT)), m.shape
        rows, columns = matrix.max(axis=1, keepdims=True), matrix.max(axis=0, keepdims=True)
        codes = nearest_codes(matrix / np.minimum(rows, columns), LINEAR_4BIT)
        return first, (pack(codes.reshape(-1), 4), rows, columns), m.shape

    @quiet
    def load(self, state: tuple[Tabled, Any, tuple[int, ...]]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        first, second, shape = state
        m = ungrouped(_read_packed(first, SIGNED_4BIT), shape)
        if isinstance(second, Tabled):
            return m, ungrouped(_read_packed(second, LINEAR_4BIT), shape)
        codes, rows, columns = second
        scale = np.minimum(rows, columns)
        values = np.array(LINEAR_4BIT, np.float32)[unpack(codes, 4, scale.size)].reshape(scale.shape)
        return m, (values * scale).reshape(shape)

    def _matrix(self, v: Float32Array) -> Float32Array | None:
        if not self.rank_one or not v.size:
            return None
        if v.ndim > 1:
            return v.reshape(v.shape[0], -1)
        return v.reshape(-1, WIDTH) if v.size % WIDTH == 0 else None


def _tabled(groups: Float32Array, table: tuple[float, ...]) -> Tabled:
    scale = amax(groups)
    return Tabled(nearest_codes(groups / or_one(scale), table), scale)


def _packed(stored: Tabled) -> Tabled:
    return stored._replace(codes=pack(stored.codes.reshape(-1), 4))


def _read_packed(stored: Tabled, table: tuple[float, ...]) -> Float32Array:
    groups = stored.scale.shape[0]
    values = np.array(table, np.float32)[unpack(stored.codes, 4, 2 * stored.codes.size)]
    return values.reshape(groups, -1) * stored.scale if groups else values.reshape(0, 1)
