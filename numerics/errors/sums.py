"""The one pass over two tensors from which every figure of an `ErrorReport` comes, in float64, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Scheme
from narrowgauge.formats.quantizer import rescaled
from narrowgauge.formats.scaling import inverse_scale
from narrowgauge.formats.tiles import Tile, tile_count
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.errors.histograms import SIGNED_BINADES, Counts, signed_binades
from narrowgauge.numerics.quantizers.grid import (
    MOST_LEVEL_BITS,
    factors_of_amax,
    round_elements,
    scale_factors,
    spacing,
)

BLOCK = 1 << 18
"""Elements that are held in float64 at a time."""
SAMPLE = 1 << 16
"""Elements of which the histogram of errors against values is made."""
SCALED_SLACK = 2.0**-22
"""Relative error of y = fl(x · fl(1 / scale)) and of fl(value · scale), with room: four roundings of 2^-24."""

Native = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Sides:
    """What is compared, as matrices [rows, cols] in the dtypes they came in. actual: None to round the reference under
    the scheme here. codes: or None to find those of `actual`. factors: [factor tiles], None without a scheme."""

    reference: Native
    actual: Native | None
    scheme: Scheme | None
    codes: Native | None
    factors: NDArray[np.floating] | None


@dataclass(eq=False)
class Sums:
    """Accumulators; of elements whose reference is finite, all but `count`. Squares are in units of `unit`²."""

    count: int
    relative: NDArray[np.float32]
    groups: tuple[int, int]
    unit: float = 1.0
    finite: int = 0
    nonzero: int = 0
    rr: float = 0.0
    aa: float = 0.0
    ra: float = 0.0
    ee: float = 0.0
    error: float = 0.0
    max_abs: float = 0.0
    max_relative: float = 0.0
    nan_created: int = 0
    inf_created: int = 0
    underflowed: Counts = field(default_factory=lambda: np.zeros(2048, dtype=np.int64))
    clipped: Counts = field(default_factory=lambda: np.zeros(2048, dtype=np.int64))
    relative_squares: FloatArray = field(default_factory=lambda: np.zeros(2048))
    reference: Counts = field(default_factory=lambda: np.zeros(SIGNED_BINADES, dtype=np.int64))
    actual: Counts = field(default_factory=lambda: np.zeros(SIGNED_BINADES, dtype=np.int64))
    ulp_count: int = 0
    ulp_sum: float = 0.0
    ulp_max: float = 0.0
    ulp_over: int = 0
    codes: Counts = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    amax: FloatArray = field(init=False)
    squares: FloatArray = field(init=False)
    sizes: FloatArray = field(init=False)
    group_clips: FloatArray = field(init=False)
    group_result: FloatArray = field(init=False)
    sample_value: list[FloatArray] = field(default_factory=list)
    sample_error: list[FloatArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("amax", "squares", "sizes", "group_clips", "group_result"):
            setattr(self, name, np.zeros(self.groups))


def blocks(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of blocks of at most `BLOCK` elements that cover a matrix in row-major order."""
    rows, cols = shape
    width = min(max(cols, 1), BLOCK)
    height = max(1, BLOCK // width)
    for top in range(0, rows, height):
        for left in range(0, cols, width):
            yield slice(top, min(top + height, rows)), slice(left, min(left + width, cols))


def group_indices(part: slice, side: int | None) -> NDArray[np.int64]:
    """Group of each row (or column) of a block."""
    index = np.arange(part.start, part.stop)
    return np.zeros_like(index) if side is None else index // side


def accumulate_groups(
    ufunc: np.ufunc, target: FloatArray, block: FloatArray, place: tuple[slice, slice], tile: Tile
) -> None:
    """target[group] = ufunc of what it holds and of the block's elements in that group."""
    tall, wide = (group_indices(part, side) for part, side in zip(place, tile, strict=True))
    (rows, first_row), (cols, first_col) = (np.unique(index, return_index=True) for index in (tall, wide))
    reduced = ufunc.reduceat(ufunc.reduceat(block, first_col, axis=1), first_row, axis=0)
    at = np.ix_(rows, cols)
    target[at] = ufunc(target[at], reduced)


def chunked_factors(reference: Native, scheme: Scheme) -> NDArray[np.float32]:
    """`scale_factors` of a matrix of any dtype, block by block where the rule looks at the largest magnitudes alone."""
    if scheme.rule.searches or scheme.factor_tile != scheme.tile:
        return scale_factors(reference.astype(np.float64), scheme)
    shape = (reference.shape[0], reference.shape[1])
    amax = np.zeros(tuple(tile_count(n, side) for n, side in zip(shape, scheme.tile, strict=True)))
    for place in blocks(shape):
        accumulate_groups(np.maximum, amax, np.abs(reference[place]).astype(np.float64), place, scheme.tile)
    with np.errstate(over="ignore"):
        return factors_of_amax(amax.astype(np.float32), scheme)


def sum_errors(sides: Sides) -> Sums:
    """Everything in one walk (two where the scales have to be found first)."""
    shape = (sides.reference.shape[0], sides.reference.shape[1])
    tile: Tile = sides.scheme.tile if sides.scheme else (None, None)
    groups = tuple(tile_count(n, side) for n, side in zip(shape, tile, strict=True))
    sums = Sums(sides.reference.size, np.empty(sides.reference.size, dtype=np.float32), (groups[0], groups[1]))
    sums.unit = _unit(sides.reference)
    if sides.scheme is not None and sides.scheme.element.bits <= MOST_LEVEL_BITS:
        sums.codes = np.zeros(2**sides.scheme.element.bits, dtype=np.int64)
    stride = max(1, sides.reference.size // SAMPLE) | 1  # odd, so that it does not walk down one column
    seen = 0
    with np.errstate(all="ignore"):
        for place in blocks(shape):
            r = sides.reference[place].astype(np.float64)
            s = _block_factors(sides, place)
            a, y = _block_actual(sides, place, r, s)
            _add_errors(sums, a, r)
            if sides.scheme is not None and s is not None:
                _add_scheme(sums, sides, place, a, r, s, y)
            first = -seen % stride
            sums.sample_value.append(r.reshape(-1)[first::stride])
            sums.sample_error.append((a - r).reshape(-1)[first::stride])
            seen += r.size
    return sums


def _unit(reference: Native) -> float:
    """A power of two that brings float64 numbers whose squares could overflow or vanish near 1; else 1."""
    if reference.dtype != np.float64 or not reference.size:
        return 1.0
    largest = max(float(np.fmax.reduce(reference, axis=None)), -float(np.fmin.reduce(reference, axis=None)))
    if not np.isfinite(largest) or largest == 0.0 or 2.0**-400 < largest < 2.0**400:
        return 1.0
    return float(2.0 ** (np.frexp(largest)[1] - 1))


def _block_factors(sides: Sides, place: tuple[slice, slice]) -> FloatArray | None:
    if sides.scheme is None or sides.factors is None:
        return None
    tall, wide = (group_indices(part, side) for part, side in zip(place, sides.scheme.factor_tile, strict=True))
    return sides.factors[tall[:, None], wide[None, :]].astype(np.float64)


def _block_actual(
    sides: Sides, place: tuple[slice, slice], r: FloatArray, s: FloatArray | None
) -> tuple[FloatArray, FloatArray | None]:
    """The actual values, and where they are made here, the element values they come from."""
    if sides.actual is not None:
        return sides.actual[place].astype(np.float64), None
    if sides.scheme is None or s is None:
        raise TypeError("actual: got None, accepted: values, or a scheme under which the reference is rounded")
    y = rescaled(r, inverse_scale(s.astype(np.float32)), sides.reference.dtype)
    elements = round_elements(np.where(np.isnan(y), np.float32(0), y).astype(np.float64), sides.scheme)
    return elements * s, elements


def _add_errors(sums: Sums, a: FloatArray, r: FloatArray) -> None:
    is_finite = np.isfinite(r)
    if not is_finite.all():
        a, r = a[is_finite], r[is_finite]
    a, r = a.reshape(-1), r.reshape(-1)
    sums.nan_created += int(np.count_nonzero(np.isnan(a)))
    sums.inf_created += int(np.count_nonzero(np.isinf(a)))
    e = a - r
    size = np.abs(e)
    sums.finite += r.size
    scaled = (a, r, e) if sums.unit == 1.0 else (a / sums.unit, r / sums.unit, e / sums.unit)
    sums.aa += float(np.dot(scaled[0], scaled[0]))
    sums.rr += float(np.dot(scaled[1], scaled[1]))
    sums.ee += float(np.dot(scaled[2], scaled[2]))
    sums.ra += float(np.dot(scaled[0], scaled[1]))
    sums.error += float(np.sum(scaled[2]))
    sums.max_abs = float(np.maximum(sums.max_abs, np.max(size, initial=0.0)))
    binade = signed_binades(r)
    sums.reference += np.bincount(binade, minlength=SIGNED_BINADES)
    sums.actual += np.bincount(signed_binades(a), minlength=SIGNED_BINADES)
    nonzero = r != 0
    relative = size / np.abs(r)
    # Only an exact zero is special, as in `max_relative_error`.
    largest = np.max(np.where(size == 0.0, 0.0, relative), initial=0.0)
    sums.max_relative = float(np.maximum(sums.max_relative, largest))
    if not nonzero.all():
        a, relative, binade = a[nonzero], relative[nonzero], binade[nonzero]
    sums.relative[sums.nonzero : sums.nonzero + relative.size] = relative
    sums.nonzero += relative.size
    binade &= 2047
    sums.relative_squares += np.bincount(binade, weights=np.square(relative), minlength=2048)
    sums.underflowed += np.bincount(binade[a == 0], minlength=2048)


def _add_scheme(
    sums: Sums,
    sides: Sides,
    place: tuple[slice, slice],
    a: FloatArray,
    r: FloatArray,
    s: FloatArray,
    elements: FloatArray | None,
) -> None:
    scheme = sides.scheme
    assert scheme is not None
    element = scheme.element
    y = np.where((s == 0) | (r == 0), 0.0, r / s)
    known = np.isfinite(y)
    y = np.where(known, y, 0.0)
    quantum = spacing(y, element)
    ulps = np.abs(a - r) / (quantum * s)
    limit = (1.0 if scheme.stochastic else 0.5) + np.abs(y) / quantum * SCALED_SLACK
    counted = known & (s > 0)
    chosen = ulps if counted.all() else ulps[counted]
    sums.ulp_count += chosen.size
    sums.ulp_sum += float(np.sum(chosen))
    sums.ulp_max = float(np.maximum(sums.ulp_max, np.max(chosen, initial=0.0)))
    sums.ulp_over += int(np.count_nonzero(~(ulps <= limit) & counted))
    clips = (y > element.max * (1 + SCALED_SLACK)) | (y < element.min * (1 + SCALED_SLACK))
    if clips.any():
        sums.clipped += np.bincount(signed_binades(r[clips]) & 2047, minlength=2048)
    _add_codes(sums, sides, place, a, s, elements)
    finite = np.where(np.isfinite(r), np.abs(r), np.inf)
    for ufunc, target, values in (
        (np.maximum, sums.amax, finite),
        (np.add, sums.squares, np.square(finite / sums.unit)),
        (np.add, sums.sizes, np.ones_like(r)),
        (np.maximum, sums.group_clips, clips.astype(np.float64)),
        (np.maximum, sums.group_result, (a != 0).astype(np.float64)),
    ):
        accumulate_groups(ufunc, target, values, place, scheme.tile)


def _add_codes(
    sums: Sums, sides: Sides, place: tuple[slice, slice], a: FloatArray, s: FloatArray, elements: FloatArray | None
) -> None:
    if not sums.codes.size or sides.scheme is None:
        return
    element = sides.scheme.element
    if sides.codes is not None:
        codes = sides.codes[place]
    else:
        values = elements if elements is not None else np.where(s == 0, 0.0, a / s)
        codes = element.encode(values[np.isfinite(values)])
    flat = codes.reshape(-1).astype(np.int64) & (sums.codes.size - 1)
    sums.codes += np.bincount(flat, minlength=sums.codes.size)
