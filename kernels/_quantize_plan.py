"""How quantize cuts a tensor into programs, and what its kernels know of a scheme at compile time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from narrowgauge.formats import BlockFormat, ScaleRule, Scheme
from narrowgauge.formats.scaling import exponent_parameters, zero_scale
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels.layout import Layout, has_float_scales, layout_of

FUSED_ELEMENTS = 16384
"""Elements that one program holds in registers, tiles included, at most."""
STAGED_ELEMENTS = 8192
"""Elements of one program where the tiles' maxima take a launch of their own."""
LONGEST_ROW = 1 << 17
"""Columns of rows that one program reads twice, at most: the second time out of the cache."""
FEWEST_ROWS = 128
"""With fewer rows than this, a program for each would leave most of a large GPU idle."""
NARROWEST = 32
"""Neighbours in memory that a block takes at least, where there are as many: their codes fill a sector."""
PER_THREAD = 32
"""Elements of a thread."""


class Tiling(NamedTuple):
    """How blocks lie over tiles: one compile-time constant.

    tile_m, tile_k: rows and columns of a tile, 0 for all. unit_m, unit_k: rows and columns of a block's parts, each of
    which lies within one tile.
    """

    tile_m: int
    tile_k: int
    unit_m: int
    unit_k: int


@dataclass(frozen=True)
class Plan:
    """Block of one program. kind: "fused" if it holds whole tiles (two-level formats take a launch for the tensor's
    scale before), "rows" if it is one row that is read twice, else "staged": maxima, scales and codes are launches of
    their own."""

    kind: str
    block_m: int
    block_k: int
    tiling: Tiling
    num_warps: int


@dataclass(frozen=True)
class PairPlan:
    """The same for two schemes on the same block, the second on the transposed matrix; `turned` is its tiling of the
    matrix as it is. kind: "fused" or "staged"."""

    kind: str
    block_m: int
    block_k: int
    tiling: Tiling
    turned: Tiling
    num_warps: int


def tiling(shape: tuple[int, int], tile: Tile, block_m: int, block_k: int) -> Tiling:
    """The tiling of a matrix of this shape by such blocks."""
    sides = [0 if side is None or side >= size else side for side, size in zip(tile, shape, strict=True)]
    units = [_unit(side, block) for side, block in zip(sides, (block_m, block_k), strict=True)]
    return Tiling(sides[0], sides[1], units[0], units[1])


def _unit(side: int, block: int) -> int:
    if side == 0 or side % block == 0:
        return block
    return side if block % side == 0 else 1


def plan(rows: int, cols: int, spec: Scheme, column_major: bool = False) -> Plan:
    """How a [rows, cols] tensor is cut, along its memory; a pure function."""
    shape, tile = (rows, cols), spec.factor_tile
    kind, block_m, block_k = _block((cols, rows), tile[::-1], spec) if column_major else _block(shape, tile, spec)
    if column_major:
        kind, block_m, block_k = "staged" if kind == "rows" else kind, block_k, block_m
    return Plan(kind, block_m, block_k, tiling(shape, tile, block_m, block_k), _warps(block_m * block_k, spec))


def _block(shape: tuple[int, int], tile: Tile, spec: Scheme) -> tuple[str, int, int]:
    """(kind, height, width) of the block of one program, for a row-major matrix."""
    (rows, cols), whole = shape, _whole_tile(shape, tile, spec)
    if whole is not None and whole[0] * whole[1] <= FUSED_ELEMENTS:
        tall, wide = whole
        # As wide as the columns allow, then as high as the program holds; whole tiles either way.
        block_k = max(wide, min(ceil_pow2(cols), 1024, FUSED_ELEMENTS // 4 // tall))
        block_m = max(tall, min(ceil_pow2(rows), FUSED_ELEMENTS // 4 // block_k))
        if block_k < NARROWEST:
            block_k = min(ceil_pow2(cols), NARROWEST, FUSED_ELEMENTS // block_m)
        if block_k >= min(ceil_pow2(cols), NARROWEST):
            return "fused", block_m, block_k
    long_row = whole is not None and whole[0] == 1 and cols <= min(whole[1], LONGEST_ROW) and not spec.two_level
    if long_row and rows >= FEWEST_ROWS:
        return "rows", 1, STAGED_ELEMENTS // _more(spec)
    elements = STAGED_ELEMENTS // _more(spec)
    # Tall tiles take tall blocks, for one atomic operation each.
    broad = 128 if tile[0] != 1 and tile[1] is not None else 512
    block_k = min(ceil_pow2(cols), max(broad, elements // ceil_pow2(rows)))
    return "staged", min(ceil_pow2(rows), elements // block_k), block_k


def turned_plan(rows: int, cols: int, spec: Scheme) -> Plan:
    """The same for a matrix that is read along its columns and whose codes are written along its rows."""
    shape, tile = (rows, cols), spec.factor_tile
    kind, block_m, block_k = _square(shape, [_whole_tile(shape, tile, spec)], _more(spec))
    return Plan(kind, block_m, block_k, tiling(shape, tile, block_m, block_k), _warps(block_m * block_k, spec))


def pair_plan(rows: int, cols: int, spec: Scheme, turned: Scheme) -> PairPlan:
    """How a [rows, cols] tensor is cut for two schemes, the second of the transposed tensor; a pure function."""
    shape, tiles = (rows, cols), (spec.factor_tile, turned.factor_tile[::-1])
    wholes = [_whole_tile(shape, tile, part) for tile, part in zip(tiles, (spec, turned), strict=True)]
    kind, block_m, block_k = _square(shape, wholes, max(_more(spec), _more(turned)))
    first, second = (tiling(shape, tile, block_m, block_k) for tile in tiles)
    # What is computed per tile of either axis takes registers: threads have half of the usual elements.
    warps = min(16, max(4, 2 * block_m * block_k // PER_THREAD // 32))
    return PairPlan(kind, block_m, block_k, first, second, warps)


def _square(shape: tuple[int, int], wholes: list[tuple[int, int] | None], more: int) -> tuple[str, int, int]:
    """(kind, height, width) of a block whose rows and columns both fill sectors of memory with codes."""
    rows, cols = (ceil_pow2(size) for size in shape)
    kind, block_m, block_k = "staged", min(rows, 64), min(cols, 64)
    known = [whole for whole in wholes if whole is not None]
    if len(known) == len(wholes):
        tall, wide = max(whole[0] for whole in known), max(whole[1] for whole in known)
        high = max(tall, min(rows, 64, max(1, FUSED_ELEMENTS // wide)))
        broad = max(wide, min(cols, 128, max(1, FUSED_ELEMENTS // high)))
        fits = high * broad <= FUSED_ELEMENTS // more
        if fits and high >= min(rows, NARROWEST) and broad >= min(cols, NARROWEST):
            kind, block_m, block_k = "fused", high, broad
    return kind, block_m, block_k


def _whole_tile(shape: tuple[int, int], tile: Tile, spec: Scheme) -> tuple[int, int] | None:
    """Sides of the smallest block of whole tiles, powers of two; None where there is none, or where torch computes the
    scales."""
    if torch_scales(spec):
        return None
    sides = [size if side is None else min(side, size) for side, size in zip(tile, shape, strict=True)]
    powers = [ceil_pow2(side) for side in sides]
    exact = (power == side or side == size for power, side, size in zip(powers, sides, shape, strict=True))
    return (powers[0], powers[1]) if all(exact) else None


def _more(spec: Scheme) -> int:
    # Stochastic rounding between levels, in float64, takes registers.
    return 2 if spec.stochastic and layout_of(spec.element).kind == "table" else 1


def _warps(elements: int, spec: Scheme) -> int:
    return min(16, _more(spec) * max(4, elements // PER_THREAD // 32))


def ceil_pow2(n: int) -> int:
    """The smallest power of two that is at least n, and at least 1."""
    return 1 << (n - 1).bit_length() if n > 1 else 1


class ScaleLayout(NamedTuple):
    """What the kernels know of a scheme's scales: one compile-time constant.

    rule: amax, static, pow2 (stored as float32), code (a power of two stored as its code) or outer (codes of `element`
    times the tensor's scale, which scales the tensor's amax to outer_divisor). largest: what amax is scaled to. zero:
    scale of a group of zeros. For powers of two: the carry and emax of `exponent_parameters`, lowest, highest and
    zero_exponent; of stored codes their bias and NaN code.
    """

    rule: str
    largest: float
    zero: float = 1.0
    static: float = 0.0
    carry: int = 0
    emax: int = 0
    lowest: int = -126
    highest: int = 127
    zero_exponent: int = 0
    bias: int = 0
    nan_code: int = 0
    element: Layout | None = None
    outer_divisor: float = 1.0


def torch_scales(spec: Scheme) -> bool:
    """Whether torch computes the scales, between the kernels of a two-stage launch: searched rules, scales rounded up,
    exponents of pairs, scale formats that bit arithmetic does not encode."""
    fmt = spec.format
    if not isinstance(fmt, BlockFormat):
        return spec.rule.searches
    return bool(fmt.micro_size) or (fmt.two_level and (spec.rule is not ScaleRule.AMAX or not has_float_scales(fmt)))


def scale_layout(spec: Scheme) -> ScaleLayout:
    """The layout of a scheme's scales; not of those that torch computes."""
    fmt, largest = spec.format, spec.element.amax_target
    if isinstance(fmt, BlockFormat) and fmt.two_level:
        return ScaleLayout(
            "outer", largest, element=layout_of(fmt.scale_format), outer_divisor=float(fmt.outer_divisor)
        )
    if isinstance(fmt, BlockFormat):
        carry, emax = exponent_parameters(fmt.element, spec.rule)
        lowest, highest = fmt.exponent_range
        nan = fmt.nan_scale_code
        return ScaleLayout(
            "code", largest, carry=carry, emax=emax, lowest=lowest, highest=highest, zero_exponent=lowest,
            bias=fmt.scale_format.bias, nan_code=nan,
        )  # fmt: skip
    if spec.rule.power_of_two:
        carry, emax = exponent_parameters(fmt, spec.rule)
        return ScaleLayout("pow2", largest, zero_scale(fmt), carry=carry, emax=emax)
    rule = "static" if spec.rule is ScaleRule.STATIC else "amax"
    return ScaleLayout(rule, largest, zero_scale(fmt), spec.static or 0.0)
