"""The reference quantizer: numpy, obvious, and the definition that every kernel reproduces bit for bit.

For each scaling group, in float32 with one rounding per operation:

    amax  = max |x|
    scale = rule(amax)            NaN where amax is NaN or infinite: that group decodes to NaN, others don't
    y     = x · (1 / scale)       of float64 inputs: the float64 product rounded to odd (no double rounding)
    code  = encode(y)             saturating; stochastic rounding takes Philox bits of the element's index

A two-level format has `outer = amax(tensor) / divisor` over the groups that are finite, and
scale = decode(code) · outer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.clipping import mse_points, percentile_points, sawb_points
from narrowgauge.formats.format import Codes
from narrowgauge.formats.philox import rounding_bits
from narrowgauge.formats.rounding import FloatArray, Rounding, Subnormals
from narrowgauge.formats.rules import ScaleRule
from narrowgauge.formats.scaling import Float32Array, inverse_scale, scale_from_amax
from narrowgauge.formats.scheme import Scheme, parse
from narrowgauge.formats.tiles import rows_cols, spread, tile_max


@dataclass(frozen=True)
class Quantized:
    """codes: the shape of x. scale: float32 factors, or scale codes of a block format. outer: float32 scalar
    array, 1 except for two-level formats."""

    codes: Codes
    scale: NDArray[np.float32] | Codes
    outer: Float32Array
    scheme: Scheme

    def dequantize(self) -> FloatArray:
        """decode(codes) · scale in float64, where every product is exact."""
        scale = self.scale
        if isinstance(self.scheme.format, BlockFormat):
            scale = self.scheme.format.scales(scale, self.outer)
        values = self.scheme.element.decode(self.codes)
        grid = spread(scale.reshape(rows_cols(scale.shape)), self.scheme.factor_tile, rows_cols(values.shape))
        return values * grid.reshape(values.shape).astype(np.float64)


def round_to_odd_float32(x: ArrayLike) -> Float32Array:
    """float64 → float32, inexact values going to the neighbour with an odd last bit, so that any later
    rounding to at most 22 bits equals a direct one (Boldo and Melquiond 2008). Finite values beyond the range
    go to the largest."""
    wide = np.asarray(x, dtype=np.float64)
    limit = float(np.finfo(np.float32).max)
    clipped = np.where(np.isinf(wide), wide, np.clip(wide, -limit, limit))
    near = np.asarray(clipped.astype(np.float32))
    bits = near.view(np.int32)
    exact = (near.astype(np.float64) == clipped) | np.isnan(clipped)
    # The nearest value is one of the two neighbours: if even, the other, odd one lies on the side of x.
    outward = np.abs(clipped) > np.abs(near.astype(np.float64))
    moved = bits + np.where(outward, 1, -1).astype(np.int32)
    # -0 and +0 have no inner neighbour, and x lies outside them.
    return np.where(exact | ((bits & 1) == 1), bits, moved).astype(np.int32).view(np.float32)


def supported_array(x: ArrayLike) -> NDArray[np.floating]:
    """`x` as an array; TypeError unless it holds float16, float32 or float64."""
    array = np.asarray(x)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"x: expected float16, float32 or float64, got {array.dtype}")
    return array


def as_matrix(array: NDArray[np.floating]) -> FloatArray:
    """`array` in float64 with everything but its last axis as rows."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return array.astype(np.float64).reshape(rows_cols(array.shape))


def rescaled(matrix: FloatArray, inverse: Float32Array, dtype: np.dtype[np.floating]) -> Float32Array:
    """matrix · inverse in float32: for float64 data the float64 product rounded to odd, else the float32
    product."""
    with np.errstate(invalid="ignore", over="ignore"):
        if dtype == np.float64:
            return round_to_odd_float32(matrix * inverse.astype(np.float64))
        return matrix.astype(np.float32) * inverse


def quantize_reference(x: ArrayLike, scheme: Scheme | str, seed: int | None = None, offset: int = 0) -> Quantized:
    """Quantises a float16/32/64 array of any shape. `seed` and `offset` name the random stream of `+sr`
    schemes.

    Raises TypeError for other dtypes, ValueError for a stochastic scheme without a seed.
    """
    spec = parse(scheme)
    array = supported_array(x)
    if spec.stochastic and seed is None:
        raise ValueError(f"seed: stochastic scheme {spec} needs an explicit seed")
    matrix = as_matrix(array)
    with np.errstate(over="ignore"):
        amax = tile_max(np.abs(matrix), spec.tile).astype(np.float32)
    if spec.rule.searches:
        amax = _clipping_points(matrix, amax, spec, array.dtype)
    stored, factors, outer = _scales(matrix, amax, spec)
    y = rescaled(matrix, _spread(inverse_scale(factors), spec, matrix), array.dtype)
    codes = _encode(y, spec, seed, offset)
    return Quantized(codes.reshape(array.shape), stored.reshape(spec.scale_shape(array.shape)), outer, spec)


def _spread(values: Float32Array, spec: Scheme, matrix: FloatArray) -> Float32Array:
    return spread(values, spec.factor_tile, matrix.shape)


def _clipping_points(
    matrix: FloatArray, amax: Float32Array, spec: Scheme, dtype: np.dtype[np.floating]
) -> Float32Array:
    """What takes the place of amax under the rules that search."""
    if spec.value is not None:
        return percentile_points(np.abs(matrix), amax, spec.tile, spec.value)
    if spec.rule is ScaleRule.SAWB:
        return sawb_points(matrix, amax, spec.tile, spec.element.name)

    def values(points: Float32Array) -> FloatArray:
        factors = _spread(scale_from_amax(points, spec.element, spec.rule), spec, matrix)
        y = rescaled(matrix, inverse_scale(factors), dtype)
        return spec.element.decode(_encode(y, spec, nearest=True)) * factors.astype(np.float64)

    return mse_points(matrix, amax, spec.tile, values)


def _scales(
    matrix: FloatArray, amax: Float32Array, spec: Scheme
) -> tuple[Float32Array | Codes, Float32Array, Float32Array]:
    """(stored scales of every tile, float32 factors of every factor tile, outer scale)."""
    fmt = spec.format
    one = np.asarray(1, dtype=np.float32)
    if not isinstance(fmt, BlockFormat):
        scale = scale_from_amax(amax, fmt, spec.rule, spec.static)
        return scale, scale, one
    outer = one
    micro = None
    if fmt.two_level:
        finite = amax[np.isfinite(amax)]
        outer = fmt.outer_scale(finite.max() if finite.size else np.float32(0))
    if fmt.micro_size:
        with np.errstate(over="ignore"):
            micro = tile_max(np.abs(matrix), fmt.factor_tile).astype(np.float32)
    codes = fmt.scale_codes(amax, spec.rule, outer, micro)
    return codes, fmt.scales(codes, outer), np.asarray(outer, dtype=np.float32)


def _encode(y: Float32Array, spec: Scheme, seed: int | None = None, offset: int = 0, *, nearest: bool = False) -> Codes:
    # A group whose scale is NaN was multiplied by zero: what is still NaN gets the positive NaN code, or 0.
    isnan = np.isnan(y)
    stochastic = spec.stochastic and not nearest
    bits = rounding_bits(y.shape, seed or 0, offset) if stochastic else None
    rounding = Rounding.STOCHASTIC if stochastic else None
    flush = Subnormals.FLUSH if spec.flush else Subnormals.GRADUAL
    codes = spec.element.encode(np.where(isnan, np.float32(0), y), rounding, random_bits=bits, subnormals=flush)
    code = spec.element.nan_code
    return np.where(isnan, 0 if code is None else code, codes).astype(codes.dtype)
