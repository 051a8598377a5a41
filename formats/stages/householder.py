"""`bhq`: block Householder, which spreads each large row over small ones (StatQuant, arXiv 2010.14298, section 4.3).

Rows x_1 (large) and x_2 … x_k (small) form a group; with z_1 = x_1, z_i = s x_i and H the reflection that maps the
first unit vector to (1, …, 1) / √k, the rows

    y = H z,   s = (λ₁ / λ₂)^(1/3) · k^(1/6)        λ₁: range of the large row, λ₂: the largest range of the small ones

are quantised, one range each (`uint8/row+sr+affine`), and x = diag(1, 1/s, …) H ŷ afterwards, since H H = 1. A large
row alone has errors ∝ λ₁²; after H its range is that of λ₁ / √k, and the group's error is about 1/k of it. The ratio s
is the paper's, where its bound of the variance is least.

Grouping, with the rows sorted by their ranges M_1 ≥ M_2 ≥ …: the largest g with (n - g) M_g ≥ M_1 + … + M_g gives
g large rows, and each gets small rows in proportion to its range. Sums over rows run in float64 along a fixed tree, so
that every device finds the same y. A NaN spoils its group of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class RowGroups:
    """Groups of rows, n rows in the order of their groups, the large one first.

    rows: which row it is. first: where its group begins. root: √(size of its group). small: whether it is a small row.
    scale: 1 or s. levels: of the sum over a group, pairs (into, from) of places that are added, level by level.
    """

    rows: Indices
    first: Indices
    root: NDArray[np.float64]
    small: NDArray[np.bool_]
    scale: NDArray[np.float64]
    levels: tuple[tuple[Indices, Indices], ...]


def row_groups(ranges: NDArray[np.floating]) -> RowGroups:
    """The groups of rows with these ranges (max - min), [n]; ranges that are not finite count as 0."""
    known = np.where(np.isfinite(ranges), ranges, 0.0).astype(np.float64)
    count = known.size
    order = np.argsort(-known, kind="stable")
    sorted_ranges = known[order]
    large, sizes = _sizes(sorted_ranges)
    owners = np.concatenate((np.arange(large), np.repeat(np.arange(large), sizes - 1)))
    places = np.argsort(owners, kind="stable")
    size = sizes[owners[places]]
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    local = np.arange(count) - first
    second = np.minimum(first + 1, max(count - 1, 0))
    above, below = sorted_ranges[places][first], sorted_ranges[places][second]
    small = local > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.cbrt(above / below) * np.power(size.astype(np.float64), 1.0 / 6.0)
    scale = np.where(small & (below > 0.0), ratio, 1.0)
    levels, distance = [], 1
    while distance < int(size.max(initial=1)):
        into = np.flatnonzero((local % (2 * distance) == 0) & (local + distance < size))
        levels.append((into, into + distance))
        distance *= 2
    return RowGroups(order[places], first, np.sqrt(size.astype(np.float64)), small, scale, tuple(levels))


def _sizes(ranges: NDArray[np.float64]) -> tuple[int, Indices]:
    """(number of large rows, size of each one's group) of descending ranges."""
    count = ranges.size
    if count < 2 or ranges[0] == 0.0:
        return count, np.ones(count, dtype=np.int64)
    total = np.cumsum(ranges)
    rank = np.arange(1, count + 1)
    large = int(np.flatnonzero((count - rank) * ranges >= total).max(initial=0)) + 1
    ends = np.floor((count - large) * (total[:large] / total[large - 1]) + 0.5).astype(np.int64)
    return large, np.diff(ends, prepend=0) + 1


def reflected(z: NDArray[np.float64], groups: RowGroups) -> NDArray[np.float64]:
    """H z for rows in the order of their groups."""
    sums = z.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for into, source in groups.levels:
            sums[into] = sums[into] + sums[source]
        mean = sums[groups.first] / groups.root[:, None]
        step = np.where(groups.small, groups.root - 1.0, 1.0)[:, None]
        return np.where(groups.small[:, None], z - (mean - z[groups.first]) / step, mean)


@dataclass(frozen=True)
class Householder(Stage):
    """For one scale per row: rows are mixed, columns are not."""

    order = 25
    EXAMPLE = "bhq"

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls() if text == "bhq" else None

    def __str__(self) -> str:
        return "bhq"

    def check(self, scheme: Scheme) -> None:
        if scheme.tile != (1, None):
            raise ValueError(f"option: 'bhq' goes with one scale per row, got {scheme.granularity}")

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        if not x.size:
            return x, row_groups(np.zeros(x.shape[0]))
        with np.errstate(over="ignore", invalid="ignore"):
            groups = row_groups(x.max(axis=1) - x.min(axis=1))
            mixed = np.empty_like(x)
            mixed[groups.rows] = reflected(x[groups.rows] * groups.scale[:, None], groups).astype(np.float32)
        return mixed, groups

    def after(self, values: NDArray[np.float64], memo: Memo) -> NDArray[np.float64]:
        apart = np.empty_like(values)
        apart[memo.rows] = reflected(values[memo.rows], memo) / memo.scale[:, None]
        return apart
