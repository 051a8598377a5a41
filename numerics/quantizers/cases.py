"""Inputs for checking quantizers: every value, every midpoint and its float32 neighbours, all 16-bit inputs, borders of
scales, arranged in matrices so that they meet the scale at which they are hard.

For a cast (`static` scale) a probe is v · scale. Under a dynamic rule every group gets one element, of either sign and
at a varying place, whose magnitude makes the scale a known power of two; the rest are probes at that scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, Format, Scheme
from narrowgauge.numerics.cases import Distribution, Float32Array, distribution, hard_cases
from narrowgauge.numerics.quantizers.grid import levels, scale_factors

Matrix = NDArray[np.floating]

FREE_SIDE = 64
"""Length of a group along an axis that it spans."""
MOST_LEVELS = 4096
"""Of formats with more values, so many at most are probed with their midpoints."""
_MAX32 = float(np.finfo(np.float32).max)


def neighbouring(values: NDArray[np.float64]) -> Float32Array:
    """Each value as float32, with the float32 numbers just below and above it."""
    with np.errstate(over="ignore"):
        middle = values.astype(np.float32)
        below, above = np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))
    return np.stack([below, middle, above], axis=1).reshape(-1)


def element_probes(element: Format) -> dict[str, Float32Array]:
    """Name of a property → inputs, in units of the scale."""
    table = _probed_levels(element)
    midpoints = (table[:-1] + table[1:]) / 2
    gap_above, gap_below = table[-1] - table[-2], table[1] - table[0]
    high = element.max + gap_above * np.array([0.25, 0.5, 0.75, 1.0, 1.5])
    low = element.min - gap_below * np.array([0.25, 0.5, 0.75, 1.0, 1.5])
    beyond = neighbouring(np.concatenate([high, low]))
    tiny, normal = element.smallest_subnormal, element.smallest_normal
    small = np.array([tiny / 4, tiny / 2, 0.75 * tiny, tiny, 1.5 * tiny, normal - tiny / 2, normal - tiny / 4, normal])
    far = np.minimum([2 * element.max, 4 * element.max, 1e6 * element.max, _MAX32], _MAX32).astype(np.float32)
    return {
        "every value": np.append(table, -0.0).astype(np.float32),
        "midpoints": neighbouring(midpoints),
        "saturation": np.concatenate([beyond[np.isfinite(beyond)], far, -far]),
        "subnormals": np.concatenate([neighbouring(small), neighbouring(-small), _float32_small()]),
    }


def _probed_levels(element: Format) -> NDArray[np.float64]:
    """Values within float32: all, or of very many a part, spread evenly; the innermost ones of a wide format."""
    table = levels(element) if element.bits <= 16 else np.arange(-256.0, 257.0) * element.smallest_subnormal
    table = table[np.abs(table) <= _MAX32]
    return table[np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_LEVELS)).astype(int))]


def float64_sentinels(element: Format) -> NDArray[np.float64]:
    """Midpoints and values moved by less than float32 can tell: what is rounded to float32 first comes out wrong."""
    table = _probed_levels(element)
    midpoints = (table[:-1] + table[1:]) / 2
    return np.concatenate([midpoints * (1 + 2.0**-40), midpoints, midpoints * (1 - 2.0**-40), table])


def _float32_small() -> Float32Array:
    info = np.finfo(np.float32)
    small = np.array([info.smallest_subnormal, 3 * info.smallest_subnormal, info.tiny, 1.5 * info.tiny, 1e-30])
    return np.concatenate([small, -small]).astype(np.float32)


def every_float16() -> Float32Array:
    """All 63,488 finite float16 numbers."""
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return values[np.isfinite(values)].astype(np.float32)


def every_bfloat16() -> Float32Array:
    """All 65,280 finite bfloat16 numbers."""
    values = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    return values[np.isfinite(values)]


def thinned(values: Matrix, budget: int) -> Matrix:
    """At most `budget` of the values, spread evenly."""
    if values.size <= budget:
        return values
    return values[np.unique(np.linspace(0, values.size - 1, budget).astype(np.int64))]


def unit_anchor(scheme: Scheme) -> tuple[float, float]:
    """(largest magnitude of a group, its scale): a group with this element has this scale, a power of two for the rules
    that look at nothing else."""
    largest = min(scheme.element.max, float(np.finfo(np.float32).max))
    if largest < scheme.element.max:
        largest = 2.0**100  # beyond float32; the scale is then the smallest there is
    if scheme.two_level:
        return largest, 1.0
    return largest, float(scale_factors(np.array([[largest]]), scheme)[0, 0])


def arranged(values: Matrix, scheme: Scheme) -> list[Matrix]:
    """Matrices (of the dtype of the values) that hold them in units of the scale, with anchors under a dynamic rule;
    values that would raise their group's scale are left out. Empty where a group has one element alone."""
    if scheme.static is not None:
        rows = ceil(values.size / FREE_SIDE)
        flat = np.zeros(rows * FREE_SIDE, dtype=values.dtype)
        with np.errstate(over="ignore"):
            flat[: values.size] = values * values.dtype.type(np.float32(scheme.static))
        return [np.nan_to_num(flat, posinf=_MAX32, neginf=-_MAX32).reshape(rows, FREE_SIDE)] if rows else []
    anchor, scale = unit_anchor(scheme)
    with np.errstate(over="ignore"):
        probes = (values.astype(np.float64) * scale).astype(values.dtype)
    probes = probes[np.abs(probes) <= anchor]
    return [_anchored(probes, scheme, anchor)] if probes.size and _group_size(scheme) > 1 else []


def _group_size(scheme: Scheme) -> int:
    rows, cols = scheme.tile
    return (rows or FREE_SIDE) * (cols or FREE_SIDE)


def group_layout(scheme: Scheme, groups: int, capacity: int = 0) -> tuple[int, int, int, int]:
    """(tiles down, tiles across, height, width) of a matrix of at least so many groups, or of one group of at least
    `capacity` elements where a group is the whole tensor."""
    rows, cols = scheme.tile
    height, width = rows or FREE_SIDE, cols or FREE_SIDE
    if rows is None and cols is None:
        return 1, 1, max(1, ceil(capacity / width)), width
    if rows is None:
        return 1, groups, height, width
    if cols is None:
        return groups, 1, height, width
    across = min(4, groups)
    return ceil(groups / across), across, height, width


def assembled(groups: Matrix, layout: tuple[int, int, int, int]) -> Matrix:
    """[groups, height · width] as the matrix that they tile."""
    tall, wide, height, width = layout
    return np.ascontiguousarray(
        groups.reshape(tall, wide, height, width).transpose(0, 2, 1, 3).reshape(tall * height, wide * width)
    )


def _anchored(probes: Matrix, scheme: Scheme, anchor: float) -> Matrix:
    with_outer = scheme.two_level
    rows, cols = scheme.tile
    whole = rows is None and cols is None
    capacity = probes.size if whole else _group_size(scheme) - 1
    groups = ceil(probes.size / capacity) + with_outer
    layout = group_layout(scheme, groups, capacity + 1)
    tall, wide, height, width = layout
    count, size = tall * wide, height * width
    table = np.zeros((count, size), dtype=probes.dtype)
    index = np.arange(count)
    places = (index * 7 + size - 1) % size  # the last element of the first group, then anywhere
    signs = np.where((index % 2 == 1) & scheme.element.signed, -1.0, 1.0)
    free = np.ones((count, size), dtype=np.bool_)
    free[index, places] = False
    if with_outer:
        free[0] = False
    flat = np.flatnonzero(free)[: probes.size]
    table.reshape(-1)[flat] = probes
    table[index, places] = anchor * signs
    if with_outer and isinstance(scheme.format, BlockFormat):
        # Makes the tensor's own scale 1.
        table[0, places[0]] = scheme.format.outer_divisor
    return assembled(table, layout)


def scale_borders(scheme: Scheme, rng: np.random.Generator) -> Iterator[Float32Array]:
    """Matrices whose groups have largest magnitudes at the borders of scales: powers of two and multiples of the
    element's largest value, with their float32 neighbours; the ends of float32; zero."""
    largest = scheme.element.max
    exponents = (-126, -100, -64, -20, -7, -2, -1, 0, 1, 2, 3, 6, 13, 20, 64, 100, 118)
    for exponent in exponents:
        centres = np.ldexp(np.array([1.0, 1.5, largest, largest / 2, 0.75 * largest]), exponent)
        yield from _with_amax(neighbouring(centres[centres < _MAX32]), scheme, rng)
    ends = np.array([_MAX32, _MAX32 / 2, 1.0, 2.0**-126, 2.0**-130, 2.0**-149, 0.0])
    for amax in ends:
        yield from _with_amax(np.array([amax], dtype=np.float32), scheme, rng)


def _with_amax(amax: Float32Array, scheme: Scheme, rng: np.random.Generator) -> Iterator[Float32Array]:
    if scheme.tile == (None, None):
        for one in amax:
            yield _groups_with_amax(np.array([one]), scheme, rng, (1, 1, 4, 8))
        return
    yield _groups_with_amax(amax, scheme, rng, group_layout(scheme, amax.size))


def _groups_with_amax(
    amax: Float32Array, scheme: Scheme, rng: np.random.Generator, layout: tuple[int, int, int, int]
) -> Float32Array:
    tall, wide, height, width = layout
    count, size = tall * wide, height * width
    wanted = np.resize(amax, count).astype(np.float32)
    fractions = rng.uniform(-1.0, 1.0, (count, size)).astype(np.float32)
    with np.errstate(under="ignore"):
        table = fractions * np.float32(0.999) * wanted[:, None]
    places = (np.arange(count) * 11 + size - 1) % size
    table[np.arange(count), places] = wanted * np.where(np.arange(count) % 3 == 1, -1.0, 1.0).astype(np.float32)
    return assembled(table if scheme.element.signed else np.abs(table), layout)


def hard_matrices(finite: bool) -> dict[str, Float32Array]:
    """The named hard cases as matrices; those without, or those with, NaN and infinities. Empty ones left out."""
    cases = {name: x.reshape(1, -1) if x.ndim < 2 else x for name, x in hard_cases().items()}
    return {name: x for name, x in cases.items() if x.size and bool(np.isfinite(x).all()) is finite}


def random_magnitudes(shape: tuple[int, int], rng: np.random.Generator) -> Float32Array:
    """Magnitudes over 32 binades in any group, and rows that are further apart."""
    x = distribution(Distribution.LOG_UNIFORM, shape, rng)
    return x * np.exp2(rng.integers(-20, 20, (shape[0], 1))).astype(np.float32)


def ragged_shapes(scheme: Scheme) -> list[tuple[int, int]]:
    """Shapes whose last groups are smaller: single elements, primes, one more and one less than whole groups."""
    height, width = (side or 1 for side in scheme.tile)
    extra = {(1, 1), (1, 3), (3, 1), (7, 13), (5, width + 1), (height + 1, 3 * width - 1), (2 * height - 1, width + 5)}
    return sorted((max(rows, 1), max(cols, 1)) for rows, cols in extra)
