"""Clipping points: what the rules `percentile=P`, `mse` and `sawb` put in the place of a group's amax.

    percentile=P   the k-th smallest |x| of the group's n, k = ceil(P / 100 · n): 100 - P % of the values clip
    mse            amax · r with the r of least squared error of the whole group, codes rounded to nearest:
                   first of r = 2^(-i/4), i = 0 … 31, then of the best times 2^(j/16), j = -3 … 3 (none above 1)
    sawb           c1 · √mean(x²) + c2 · mean|x| with c1 and c2 of the integer format; amax where that is less than
                   √mean(x²) or more than amax

All depend on the values alone, not on the order of a sum: the squared errors, relative to amax, and the values and
squares of `sawb`, relative to a power of two, are rounded to integers before they are added, so that every device finds
the same point. Equal errors: the larger r. Where the percentile is zero, though the group is not, amax stays. A group
with a NaN or an infinity keeps its amax, too.

`sawb` is statistics-aware weight binning (Choi et al., MLSys 2019; arXiv 1807.06964): c1 and c2 are fitted to the best
clipping points of several distributions. `SAWB` has those of grids with a zero, as IBM's FMS Model Optimizer publishes
them; there a negative result is replaced by amax.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.rounding import FloatArray
from narrowgauge.formats.scaling import Float32Array
from narrowgauge.formats.tiles import Tile, in_tiles, spread, tile_sides

COARSE = tuple(float(np.float32(2.0 ** (-i / 4))) for i in range(32))
"""Ratios of the first search, float32."""
FINE = tuple(float(np.float32(2.0 ** (j / 16))) for j in (3, 2, 1, -1, -2, -3))
"""Factors of the second search, float32; the best of the first stays a candidate."""
MOST_ERROR_BITS = 52
"""Bits of one squared error at most."""
SAWB = {"int2": (2.6, -1.71), "int4": (12.035, -12.03), "int7": (28.24, -30.81), "int8": (31.76, -35.04)}
"""(c1, c2) by element format: -M … M, both ends included."""
SAWB_EXPONENTS = (-126, 126)
"""Of the powers of two that the values of `sawb` are divided by: their reciprocals are normal float32 numbers."""


def percentile_rank(percentile: float, count: int) -> int:
    """k = ceil(P / 100 · n), at least 1; P as the decimal number that it is written as."""
    return max(1, -(-Fraction(repr(percentile)) * count // 100))


def error_bits(count: int) -> int:
    """Bits of a squared error in a group of `count` values, so that their sum stays below 2^62."""
    return min(MOST_ERROR_BITS, 62 - int(count).bit_length())


def percentile_points(magnitude: FloatArray, amax: Float32Array, tile: Tile, percentile: float) -> Float32Array:
    """The P-th percentile of every tile of non-negative `magnitude` [rows, cols]; amax: float32 [tiles]."""
    points = amax.copy()
    height, width = tile_sides(tile, magnitude.shape)
    for i, j in np.argwhere(np.isfinite(amax) & (amax > 0)):
        group = magnitude[i * height : (i + 1) * height, j * width : (j + 1) * width].reshape(-1)
        k = percentile_rank(percentile, group.size)
        point = np.float32(np.partition(group, k - 1)[k - 1])
        points[i, j] = point if point > 0 else amax[i, j]
    return points


def mse_points(
    x: FloatArray, amax: Float32Array, tile: Tile, values: Callable[[Float32Array], FloatArray]
) -> Float32Array:
    """The clipping point of least squared error of every tile of x [rows, cols].

    amax: float32 [tiles]. values(points): x̂ in float64 [rows, cols] when each tile clips at its point.
    """
    finite = np.isfinite(amax)
    safe = np.where(finite, amax, np.float32(0))
    height, width = tile_sides(tile, x.shape)
    bits = error_bits(height * width)
    spread_amax = spread(np.where(safe > 0, safe, np.float32(1)), tile, x.shape).astype(np.float64)
    usable = np.isfinite(x)
    clean = np.where(usable, x, 0.0)

    def cost(ratio: Float32Array) -> NDArray[np.int64]:
        quantized = values((safe * ratio).astype(np.float32))
        relative = (np.where(usable, quantized, 0.0) - clean) / spread_amax
        squared = np.rint(np.minimum(relative * relative, 1.0) * 2.0**bits).astype(np.int64)
        return np.asarray(in_tiles(squared, tile).sum(axis=(1, 3)))

    ratio = np.ones_like(amax)
    best = cost(ratio)
    for candidates in (COARSE[1:], FINE):
        start = ratio.copy() if candidates is FINE else np.ones_like(amax)
        for factor in candidates:
            tried = np.minimum(start * np.float32(factor), np.float32(1)).astype(np.float32)
            found = cost(tried)
            better = (found < best) | ((found == best) & (tried > ratio))
            best, ratio = np.where(better, found, best), np.where(better, tried, ratio)
    return np.where(finite, safe * ratio, amax).astype(np.float32)


def statistic_bits(count: int) -> int:
    """Bits behind the point of the values and squares that `sawb` adds: none exceeds 16, and no sum 2^62."""
    return error_bits(count) - 4


def sawb_points(x: FloatArray, amax: Float32Array, tile: Tile, element: str) -> Float32Array:
    """The clipping point of `sawb` of every tile of x [rows, cols], for the element format of that name; amax: float32
    [tiles]. Float32 and whole numbers for each value, float64 for each tile."""
    finite = np.isfinite(amax) & (amax > 0)
    height, width = tile_sides(tile, x.shape)
    bits = statistic_bits(height * width)
    exponent = np.clip(np.frexp(np.where(finite, amax, np.float32(1)))[1], *SAWB_EXPONENTS)
    unit = np.ldexp(np.float32(1), exponent)
    inverse = np.where(finite, np.float32(1) / unit, np.float32(0))
    with np.errstate(invalid="ignore", over="ignore"):
        magnitude = np.abs(x.astype(np.float32)) * spread(inverse, tile, x.shape)
    magnitude = np.where(np.isfinite(magnitude), magnitude, np.float32(0))

    def mean(values: Float32Array) -> NDArray[np.float64]:
        whole = np.rint(values * np.float32(2.0**bits)).astype(np.int64)
        total = in_tiles(whole, tile).sum(axis=(1, 3)).astype(np.float64)
        counts = in_tiles(np.ones(x.shape, dtype=np.int64), tile).sum(axis=(1, 3))
        return np.asarray(total / np.maximum(counts, 1) * 2.0**-bits)

    first, second = SAWB[element]
    root = np.sqrt(mean(np.square(magnitude)))
    point = first * root + second * mean(magnitude)
    usable = finite & (point >= root) & (point <= amax.astype(np.float64) / unit)
    return np.where(usable, point * unit, amax).astype(np.float32)
