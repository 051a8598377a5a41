"""What the checks and the error report need to know of a format and a scheme: levels, spacing, neighbours, factors.

A scheme's elements live in units of their group's scale: y = x / scale. `levels` are the finite values that y may
become."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, FloatFormat, Format, IntFormat, Overflow, Rounding, Scheme
from narrowgauge.formats.quantizer import Quantized, quantize_reference
from narrowgauge.formats.rounding import Subnormals
from narrowgauge.formats.scaling import scale_from_amax
from narrowgauge.formats.tiles import spread, tile_count, tile_max
from narrowgauge.numerics._arrays import FloatArray

MOST_LEVEL_BITS = 16
"""Formats up to this width are handled by the list of their values."""

T = TypeVar("T", bound=np.generic)


@lru_cache(maxsize=64)
def levels(element: Format) -> FloatArray:
    """The finite values that encoding gives, ascending, each once; read-only. ValueError above 16 bits."""
    values = element.values()
    kept = np.unique(values[np.isfinite(values) & (values >= element.min) & (values <= element.max)])
    kept = kept + 0.0  # -0.0 and 0.0 are one level
    kept.setflags(write=False)
    return kept


def spacing(y: FloatArray, element: Format) -> FloatArray:
    """Distance of the format's values at the exponent of y: of floats 2^(exponent - mantissa bits), no less than the
    smallest subnormal and no more than in the last binade; of integers the step; of tables the gap that holds y."""
    if isinstance(element, FloatFormat):
        exponent = np.frexp(np.abs(y))[1] - 1
        exponent = np.where(np.isfinite(y) & (y != 0), exponent, element.emin)
        return np.ldexp(1.0, np.clip(exponent, element.emin, element.emax) - element.mantissa_bits)
    if isinstance(element, IntFormat):
        return np.full(y.shape, element.step)
    table = levels(element)
    upper = np.clip(np.searchsorted(table, y, side="right"), 1, len(table) - 1)
    return table[upper] - table[upper - 1]


def neighbours(y: FloatArray, element: Format) -> tuple[FloatArray, FloatArray]:
    """The largest value of the format <= y and the smallest >= y; both the last one beyond the range. y: no NaN."""
    inside = np.clip(y, element.min, element.max)
    if element.bits > MOST_LEVEL_BITS:
        return element.round(inside, Rounding.DOWN), element.round(inside, Rounding.UP)
    table = levels(element)
    below = table[np.searchsorted(table, inside, side="right") - 1]
    return below, table[np.searchsorted(table, inside, side="left")]


def has_negative_zero(element: Format) -> bool:
    """Whether -0.0 has a code of its own."""
    return isinstance(element, FloatFormat) and element.has_negative_zero


def is_symmetric(element: Format) -> bool:
    """Whether the negative of every value is a value."""
    if element.bits > MOST_LEVEL_BITS:
        return element.min == -element.max
    table = levels(element)
    return bool(np.array_equal(table, -table[::-1]))


def round_elements(
    y: FloatArray, scheme: Scheme, overflow: Overflow = Overflow.SATURATE, rounding: Rounding | None = None
) -> FloatArray:
    """Values of the scheme's element format that y (no NaN) becomes in nearest rounding, or in the mode given."""
    flush = Subnormals.FLUSH if scheme.flush else Subnormals.GRADUAL
    return scheme.element.round(y, rounding, overflow=overflow, subnormals=flush)


def tile_amax(matrix: FloatArray, scheme: Scheme) -> NDArray[np.float32]:
    """Largest magnitude of each group in float32, [tiles down, tiles across]."""
    with np.errstate(over="ignore"):
        return tile_max(np.abs(matrix), scheme.tile).astype(np.float32)


def scale_factors(matrix: FloatArray, scheme: Scheme) -> NDArray[np.float32]:
    """The factor of each group (of each pair, where a format has micro-exponents) by the scheme's definition; NaN for
    groups with a NaN or an infinity. matrix: float64 [rows, cols]."""
    fmt = scheme.format
    if scheme.rule.searches or (isinstance(fmt, BlockFormat) and fmt.micro_size):
        return factors_of(quantize_reference(matrix.astype(np.float32), replace(scheme, stochastic=False)))
    return factors_of_amax(tile_amax(matrix, scheme), scheme)


def factors_of(found: Quantized) -> NDArray[np.float32]:
    """The factors [factor tiles down, across] of what the reference quantizer gave."""
    fmt = found.scheme.format
    scale = fmt.scales(found.scale, found.outer) if isinstance(fmt, BlockFormat) else found.scale
    return np.asarray(scale.reshape(-1, scale.shape[-1]), dtype=np.float32)


def static_factors(static: float, scheme: Scheme, shape: tuple[int, int]) -> FloatArray:
    """The factors of a matrix of this shape under a given scale."""
    rows, cols = (tile_count(n, side) for n, side in zip(shape, scheme.tile, strict=True))
    return np.full((rows, cols), float(np.float32(static)))


def element_factors(x: NDArray[np.floating], scheme: Scheme) -> FloatArray:
    """The `scale_factors` of x [rows, cols], one per element."""
    return per_element(scale_factors(x.astype(np.float64), scheme), scheme, (x.shape[0], x.shape[1]))


def factors_of_amax(amax: NDArray[np.float32], scheme: Scheme) -> NDArray[np.float32]:
    """The factors [tiles down, tiles across] of groups of which only the largest magnitudes matter."""
    fmt = scheme.format
    if not isinstance(fmt, BlockFormat):
        return scale_from_amax(amax, fmt, scheme.rule, scheme.static)
    outer: NDArray[np.float32] = np.asarray(1, dtype=np.float32)
    if fmt.two_level:
        finite = amax[np.isfinite(amax)]
        outer = fmt.outer_scale(finite.max() if finite.size else np.float32(0))
    return fmt.scales(fmt.scale_codes(amax, scheme.rule, outer), outer)


def per_element(factors: NDArray[np.floating], scheme: Scheme, shape: tuple[int, int]) -> FloatArray:
    """Factors repeated to one per element of a matrix of this shape, float64."""
    return spread(factors.astype(np.float64), scheme.factor_tile, shape)


def per_group(values: NDArray[T], scheme: Scheme, shape: tuple[int, int]) -> NDArray[T]:
    """One value per group repeated to one per element."""
    return spread(values, scheme.tile, shape)


def any_in_group(mask: NDArray[np.bool_], scheme: Scheme) -> NDArray[np.bool_]:
    """Whether a group holds an element of `mask`, one bool per group."""
    return tile_max(mask.astype(np.float64), scheme.tile) > 0
