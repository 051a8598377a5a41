"""Clipping points: what the rules `percentile=P` and `mse` put in the place of a group's amax.

    percentile=P   the k-th smallest |x| of the group's n, k = ceil(P / 100 · n): 100 - P % of the values clip
    mse            amax · r with the r of least squared error of the whole group, codes rounded to nearest:
                   first of r = 2^(-i/4), i = 0 … 31, then of the best times 2^(j/16), j = -3 … 3 (none above 1)

Both depend on the values alone, not on the order of a sum: the squared errors, relative to amax, are rounded to
integers before they are added, so that every device finds the same point. Equal errors: the larger r. Where the
percentile is zero, though the group is not, amax stays. A group with a NaN or an infinity keeps its amax, too.
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
