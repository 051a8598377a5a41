"""round_values: the values that a tensor becomes under a scheme, for elements of up to 16 bits; no codes are stored.

    x̂ = decode(encode(x · (1 / scale))) · scale                (definition: narrowgauge.formats.quantizer)

`quantize` and `dequantize` store codes of at most 8 bits. Wider formats have nothing to gain from a GPU's narrow GEMMs
and are emulated: the operands of a product, or a stored tensor, become what the format would have kept of them. Scales,
their rules and the random bits of `+sr` are those of `quantize`. Runs on any device, by torch operations alone:
`kernels/_round_torch.py` says how elements are rounded.

`torch.ops.narrowgauge.round_values(x, scheme, seed, offset) -> Tensor`: one call to compilers, never looked into.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, ScaleRule, Scheme, parse
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels._cast_torch import rounding_bits
from narrowgauge.kernels._clipping_torch import mse_points, percentile_points, sawb_points
from narrowgauge.kernels._mse_torch import steps_of
from narrowgauge.kernels._quantize_torch import CACHED_ELEMENTS, check_input, round_to_odd
from narrowgauge.kernels._round_torch import Rounder, grid_of, rounder
from narrowgauge.kernels._scales_torch import block_scales, inverse, pair_codes, scales
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.layout import CODE_BITS
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.kernels.tensor import canonical, dequantize_raw, quantize_raw
from narrowgauge.kernels.tiles import as_matrix, empty_codes, group_amax, multiply_tiles, tile_counts

WIDEST = 16
"""Widest elements served here, but for tf32 and other minifloats of at most so many mantissa bits."""


def round_values(x: Tensor, scheme: Scheme | str, seed: int = 0, offset: int = 0) -> Tensor:
    """x (float32/64/16 or bfloat16, any shape and strides) as `scheme` keeps it: float32, of x's shape, column-major
    where x is, without a gradient.

    Equal to the numpy definition bit for bit: its decode(codes) · scale, which float64 holds exactly, rounded once to
    float32. A float64 x gives that exact product as float64. Groups with a NaN or an infinity are NaN.
    seed, offset: the Philox stream of `+sr` schemes (not looked at otherwise).

    Raises ValueError for elements of more than 16 bits (tf32 is served), for formats that hold values which are no
    float32 numbers and for stochastic rounding that tables do not know; TypeError for other dtypes.
    """
    check_input(x)
    result: Tensor = torch.ops.narrowgauge.round_values(x.detach(), canonical(scheme), seed, offset)
    return result


def _result_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _round_values(x: Tensor, scheme: str, seed: int, offset: int) -> Tensor:
    check_input(x)
    spec = parse(scheme)
    if spec.element.bits <= CODE_BITS:
        return _through_codes(x, spec, scheme, seed, offset)
    rounds = _checked_rounder(spec, x.device)
    out = empty_codes(x, _result_dtype(x))
    matrix, target = as_matrix(x), as_matrix(out)
    if not matrix.numel():
        return out
    random = rounding_bits(matrix.shape, seed, offset, x.device) if spec.stochastic else None
    factors, tile = _factors(matrix, spec, rounds), spec.factor_tile
    for rows, part in _row_blocks(matrix, factors, tile):
        values = _rounded(matrix[rows], part, tile, rounds, None if random is None else random[rows])
        target[rows] = multiply_tiles(values.to(out.dtype), part.to(out.dtype), tile)
    return out


def _through_codes(x: Tensor, spec: Scheme, scheme: str, seed: int, offset: int) -> Tensor:
    codes, scale, outer = quantize_raw(x, scheme, seed, offset)
    if x.dtype != torch.float64:
        return dequantize_raw(codes, scale, outer, scheme, torch.float32)
    out = empty_codes(x, torch.float64)
    matrix, target = as_matrix(codes), as_matrix(out)
    target.copy_(decode(matrix, spec.element))
    multiply_tiles(target, factors_of(scale, outer, spec, matrix.shape[1]).double(), spec.factor_tile)
    return out


def _checked_rounder(spec: Scheme, device: torch.device) -> Rounder:
    fmt = spec.element
    if fmt.bits > WIDEST:
        grid = grid_of(fmt)
        if grid is None or grid.mantissa_bits > WIDEST:
            raise ValueError(
                f"scheme: {spec} has elements of {fmt.bits} bits, accepted: at most {WIDEST} bits, and minifloats of "
                f"at most {WIDEST} mantissa bits such as tf32"
            )
    return rounder(fmt, spec.flush, device, stochastic=spec.stochastic)


def _factors(matrix: Tensor, spec: Scheme, rounds: Rounder) -> Tensor:
    """float32 factors of the tiles of `spec.factor_tile`."""
    fmt, one = spec.format, matrix.new_ones((), dtype=torch.float32)
    if isinstance(fmt, BlockFormat) and fmt.micro_size:
        pairs = group_amax(matrix, fmt.factor_tile)
        stored = pair_codes(pairs, spec, fmt).stored
        return block_scales(stored, fmt, one)[:, : pairs.shape[1]]
    amax = group_amax(matrix, spec.tile)
    if spec.value is not None and spec.rule.searches:
        amax = percentile_points(matrix, amax, spec.tile, spec.value)
    elif spec.rule is ScaleRule.SAWB:
        amax = sawb_points(matrix, amax, spec.tile, spec.element.name, max(1, CACHED_ELEMENTS // matrix.shape[1]))
    elif spec.rule.searches:

        def values(x: Tensor, points: Tensor) -> Tensor:
            factors = scales(points, spec)[1]
            rounded = _rounded(x, factors, spec.tile, rounds, None)
            return multiply_tiles(rounded.double(), factors.double(), spec.tile)

        steps = None if isinstance(fmt, BlockFormat) else steps_of(spec, lambda y, scratch: rounds(y, None))
        amax = mse_points(matrix, amax, spec.tile, values, max(1, CACHED_ELEMENTS // matrix.shape[1]), steps)
    return scales(amax, spec)[1]


def _row_blocks(matrix: Tensor, factors: Tensor, tile: Tile) -> list[tuple[slice, Tensor]]:
    """(rows, their factors): whole tiles, on a CPU as many as the caches hold, because the steps are many."""
    rows, cols = matrix.shape
    height = tile[0]
    if matrix.device.type != "cpu" or rows * cols <= CACHED_ELEMENTS:
        return [(slice(0, rows), factors)]
    step = max(1, CACHED_ELEMENTS // cols)
    if height is None:
        return [(slice(start, start + step), factors) for start in range(0, rows, step)]
    tiles = max(1, step // height)
    down = tile_counts((rows, cols), tile)[0]
    return [
        (slice(first * height, (first + tiles) * height), factors[first : first + tiles])
        for first in range(0, down, tiles)
    ]


def _rounded(x: Tensor, factors: Tensor, tile: Tile, rounds: Rounder, random: Tensor | None) -> Tensor:
    """float32 element values of x [rows, cols] in units of its tiles' factors."""
    if x.dtype == torch.float64:
        y = round_to_odd(multiply_tiles(x.clone(), inverse(factors).double(), tile))
    else:
        y = multiply_tiles(x.to(torch.float32, copy=True), inverse(factors), tile)
    rounds(y, random)
    return y


def _fake(x: Tensor, scheme: str, seed: int, offset: int) -> Tensor:
    check_input(x)
    return empty_codes(x, _result_dtype(x))


LIBRARY.define(
    "round_values(Tensor x, str scheme, int seed, int offset) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
LIBRARY.impl("round_values", _round_values, "CompositeExplicitAutograd")
torch.library.register_fake("narrowgauge::round_values", _fake, lib=LIBRARY)
