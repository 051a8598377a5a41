"""quantize in torch: what serves the CPU, what compilers fuse, and the searched scale rules on any device.

See kernels/quantize.py for the contract.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, ScaleRule, Scheme, parse
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels._cast_torch import encode, rounding_bits
from narrowgauge.kernels._clipping_torch import mse_points, percentile_points, sawb_points
from narrowgauge.kernels._mse_torch import steps_of
from narrowgauge.kernels._row_bits_torch import RowBits, drawn_rows
from narrowgauge.kernels._scales_torch import inverse, pair_scales, scales
from narrowgauge.kernels._tables_torch import decode, encode_any, encode_by_table
from narrowgauge.kernels.layout import layout_for, layout_of, scale_dtype
from narrowgauge.kernels.tiles import (
    as_matrix,
    empty_codes,
    group_amax,
    is_column_major,
    multiply_tiles,
    row_blocks,
    spread_rows,
    tile_counts,
)

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CHUNK_ELEMENTS = 1 << 20
"""Elements of one CPU block, 4 MiB of float32: its buffers stay in the last cache and are used again for the next
block, because new memory costs a system more than the arithmetic; and it is large enough that starting and joining
threads, which is slow on a busy machine, does not count."""
CACHED_ELEMENTS = 1 << 18
"""Elements that many steps work on at a time: they stay in the caches."""

# Formats whose torch cast of a clamped, finite float32 equals ours (tested on every float16 and every midpoint).
NATIVE_CASTS = {
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
}


FUSED_CASTS = ("e4m3fn", "e5m2")
"""Those of them that inductor's loops take several numbers at a time, three times as fast as the formula."""

# Under the other rules no scaled value passes the largest one by more than a rounding error, which rounds back to it.
CLIPPING_RULES = (
    ScaleRule.FLOOR,
    ScaleRule.EVEN,
    ScaleRule.STATIC,
    ScaleRule.PERCENTILE,
    ScaleRule.MSE,
    ScaleRule.SAWB,
)


def check_input(x: Tensor) -> None:
    """Raises TypeError for anything but a floating tensor that the op takes."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in FLOAT_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES)
        raise TypeError(f"x: expected dtype {names}, got {str(x.dtype).removeprefix('torch.')}")


def round_to_odd(x: Tensor) -> Tensor:
    """float64 → float32 with inexact values going to the odd neighbour (formats.round_to_odd_float32)."""
    limit = torch.finfo(torch.float32).max
    clipped = torch.where(torch.isinf(x), x, x.clamp(-limit, limit))
    near = clipped.float()
    back = near.double()
    bits = near.view(torch.int32)
    moved = torch.where(clipped.abs() > back.abs(), bits + 1, bits - 1)
    keep = (back == clipped) | torch.isnan(clipped) | ((bits & 1) == 1)
    return torch.where(keep, bits, moved).view(torch.float32)


def _scaled(x: Tensor, factors: Tensor, tile: Tile, out: Tensor | None = None) -> Tensor:
    """x times its tile's factor as float32, in `out` (of x's shape, not for float64), else in fresh memory."""
    if x.dtype == torch.float64:
        return round_to_odd(multiply_tiles(x.clone(), factors.double(), tile))
    if x.dtype == torch.float32 and tile[1] in (None, 1):
        return torch.mul(x, spread_rows(factors, tile[0], x.shape[0]), out=out)
    if out is None:
        return multiply_tiles(x.to(torch.float32, copy=True, memory_format=torch.contiguous_format), factors, tile)
    return multiply_tiles(out.copy_(x), factors, tile)


def clipping_points(matrix: Tensor, amax: Tensor, spec: Scheme) -> Tensor:
    """What takes the place of amax [tiles down, tiles across] under the rules that search; see formats/clipping.py."""
    if not amax.numel() or not matrix.numel():
        return amax
    if spec.value is not None:
        return percentile_points(matrix, amax, spec.tile, spec.value)
    rows_at_once = max(1, CACHED_ELEMENTS // matrix.shape[1])
    if spec.rule is ScaleRule.SAWB:
        return sawb_points(matrix, amax, spec.tile, spec.element.name, rows_at_once)

    def values(x: Tensor, points: Tensor) -> Tensor:
        factors = scales(points, spec)[1]
        y = _scaled(x, inverse(factors), spec.tile)
        isnan = torch.isnan(y)
        codes = encode_by_table(torch.where(isnan, 0.0, y).contiguous(), spec.element, spec.flush)
        return multiply_tiles(decode(codes, spec.element).double(), factors.double(), spec.tile)

    steps = None if isinstance(spec.format, BlockFormat) else steps_of(spec)
    return mse_points(matrix, amax, spec.tile, values, rows_at_once, steps)


def _is_traceable(spec: Scheme) -> bool:
    """Whether compilers get the formula: tiles narrower than a row have uneven edges, more than inductor's loop
    splitting takes, and tables and searches are nothing to fuse."""
    plain = not isinstance(spec.format, BlockFormat) and not spec.rule.searches and spec.tile[1] in (None, 1)
    return plain and layout_of(spec.element).kind != "table"


def quantize_traceable(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in one piece, for a compiler to fuse, where it can be; else one call of the op. The bits are the
    same."""
    spec = parse(scheme)
    if not _is_traceable(spec):
        return torch.ops.narrowgauge.quantize(x, scheme, seed, offset)
    return quantize_by_amax(x, spec, group_amax(as_matrix(x), spec.tile), seed, offset)


def quantize_by_amax(
    x: Tensor, spec: Scheme, amax: Tensor, seed: int = 0, offset: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, of what is traceable, with the tiles' maxima given (float32 [tiles down, tiles across])."""
    matrix = as_matrix(x)
    stored, factors, outer = scales(amax, spec)
    y = _scaled(matrix, inverse(factors), spec.tile)
    if x.device.type == "cpu" and spec.element.name in FUSED_CASTS and not spec.stochastic and not spec.flush:
        codes = _cast(y, spec)
    else:
        random = rounding_bits(matrix.shape, seed, offset, x.device) if spec.stochastic else None
        codes = encode(y, layout_for(spec), random)
    return codes.view(x.shape), stored.view(spec.scale_shape(tuple(x.shape))), outer


def _cast(y: Tensor, spec: Scheme) -> Tensor:
    """Codes of float32 y by torch's own cast, whatever NaN it has."""
    layout, element = layout_for(spec), spec.element
    if _may_clip(spec):
        y = y.clamp(element.min, element.max)
    codes = y.to(NATIVE_CASTS[element.name]).view(torch.uint8)
    return torch.where((codes & 0x7F) > layout.max_code + layout.has_inf, layout.nan_code, codes)


def quantize_torch(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """The CPU implementation: amax in one sweep, then blocks that are scaled and encoded while they are in cache."""
    check_input(x)
    spec = parse(scheme)
    codes = empty_codes(x, layout_for(spec).code_dtype)
    matrix, target = as_matrix(x), as_matrix(codes)
    scale_shape, tile = spec.scale_shape(tuple(x.shape)), spec.tile
    if isinstance(spec.format, BlockFormat) and spec.format.micro_size:
        stored = _encode_pairs(matrix, target, spec, spec.format, _bits_of_rows(matrix, spec, seed, offset))
        return codes, stored.reshape(scale_shape), x.new_ones((), dtype=torch.float32)
    # Work along the memory: the transposed problem has the transposed tiles.
    turned = is_column_major(x) and not spec.rule.searches
    if turned:
        matrix, target, tile = matrix.t(), target.t(), (tile[1], tile[0])
    amax = group_amax(matrix, tile, max(1, CHUNK_ELEMENTS // max(matrix.shape[1], 1)))
    if spec.rule.searches:
        amax = clipping_points(matrix, amax, spec)
    stored, factors, outer = scales(amax.t() if turned else amax, spec)
    factors = inverse(factors)
    bits = _bits_of_rows(matrix, spec, seed, offset, turned=turned)
    _encode_blocks(matrix, target, factors.t() if turned else factors, tile, spec, bits)
    return codes, stored.reshape(scale_shape).contiguous(), outer


def _bits_of_rows(matrix: Tensor, spec: Scheme, seed: int, offset: int, *, turned: bool = False) -> RowBits:
    """The rounding bits of rows, asked for in ascending order; None of schemes that draw none. turned: of the transpose
    of the matrix that the stream runs along."""
    if not spec.stochastic:
        return lambda rows: None
    if turned:
        whole = rounding_bits(matrix.t().shape, seed, offset, matrix.device).t()
        return lambda rows: whole[rows]
    return drawn_rows(matrix.shape, seed, offset)


def _encode_pairs(matrix: Tensor, target: Tensor, spec: Scheme, fmt: BlockFormat, random: RowBits) -> Tensor:
    """Codes of a format with micro-exponents into `target`; the stored scales [rows, blocks]. A scale for every pair
    takes as many steps as its values, so all of them work on rows that the caches hold."""
    rows, cols = matrix.shape
    stored = matrix.new_empty((rows, tile_counts(matrix.shape, spec.tile)[1]), dtype=scale_dtype(spec))
    step = max(1, CHUNK_ELEMENTS // max(cols, 1))
    memory = matrix.new_empty((3, min(step, rows) * cols), dtype=torch.float32)
    for start in range(0, rows if cols else 0, step):
        chosen = slice(start, start + step)
        part, size = matrix[chosen], matrix[chosen].numel()
        buffer = memory[0, :size].view(-1, cols)
        pairs = torch.max_pool1d(buffer.copy_(part).abs_().unsqueeze(0), fmt.micro_size, ceil_mode=True).squeeze(0)
        stored[chosen], factors, finite = pair_scales(pairs, spec, fmt)
        y = _scaled(part, _repeated(factors, fmt.micro_size)[:, :cols], (1, 1), buffer)
        _encode_block(
            y, target[chosen], spec, random(chosen), memory[1:, :size].view(torch.int32), may_have_nan=not finite
        )
    return stored


def _repeated(factors: Tensor, times: int) -> Tensor:
    """Each of the float32 factors, none of them negative, so many times in a row."""
    if times == 2 and sys.byteorder == "little":
        # Both halves of a 64-bit word at once, several times as fast as copying by strides of 2.
        return factors.view(torch.int32).to(torch.int64).mul_(0x1_0000_0001).view(torch.float32)
    return factors.repeat_interleave(times, dim=1)


def _may_clip(spec: Scheme) -> bool:
    """Whether scaled values may pass the largest one by more than a rounding error. Scales of block formats are
    rounded, or clamped to the exponents that they have."""
    fmt = spec.format
    ranged = isinstance(fmt, BlockFormat) and (fmt.two_level or fmt.exponent_range != (-127, 127))
    return spec.rule in CLIPPING_RULES or ranged


def _encode_blocks(matrix: Tensor, target: Tensor, factors: Tensor, tile: Tile, spec: Scheme, random: RowBits) -> None:
    # A zero factor marks a group with a NaN or an infinity (or one that is zero altogether).
    may_have_nan = bool((factors == 0).any())
    memory, cols = None, matrix.shape[1]
    for rows, tiles in row_blocks(matrix.shape, tile[0], CHUNK_ELEMENTS):
        size = matrix[rows].numel()
        memory = matrix.new_empty((3, size), dtype=torch.float32) if memory is None else memory
        y = _scaled(matrix[rows], factors[tiles], tile, memory[0, :size].view(-1, cols) if size else None)
        _encode_block(
            y, target[rows], spec, random(rows), memory[1:, :size].view(torch.int32), may_have_nan=may_have_nan
        )


def _encode_block(
    y: Tensor, target: Tensor, spec: Scheme, random: Tensor | None, scratch: Tensor, *, may_have_nan: bool
) -> None:
    """Codes of float32 y, which is overwritten, into `target`: by torch's own cast, a table, or the formula, whichever
    is quickest. scratch: int32 memory of twice y's size, [2, elements]."""
    element, layout = spec.element, layout_for(spec)
    plain = random is None and not may_have_nan
    if plain and layout.kind == "int":
        target.copy_(y.mul_(float(1 << layout.fraction_bits)).clamp_(layout.min_code, layout.max_code).round_())
    elif plain and element.name in NATIVE_CASTS and not spec.flush:
        if _may_clip(spec):
            y.clamp_(element.min, element.max)
        target.view(NATIVE_CASTS[element.name]).copy_(y)
    elif plain and target.is_contiguous():
        encode_by_table(y, element, spec.flush, target, scratch)
    elif layout.kind == "table":
        target.copy_(encode_any(y, element, spec.flush, random, may_have_nan=may_have_nan))
    else:
        target.copy_(encode(y, layout, random, may_have_nan=may_have_nan))
