"""quantize: codes and scales of a tensor under a scheme, in one read and one write where the tile allows it.

    amax  = max |x|  of each tile             scale = rule(amax)
    codes = encode(x · (1 / scale))           (definition: narrowgauge.formats.quantizer)

`torch.ops.narrowgauge.quantize(x, scheme, seed, offset) -> (codes, scale, outer)`
  x      [..., K] float32 / float64 / float16 / bfloat16, any strides
  codes  the shape of x; uint8, int8 for signed integer formats; column-major where x is
  scale  `Scheme.scale_shape(x.shape)` float32, or uint8 scale codes for block formats
  outer  [] float32: the per-tensor scale of two-level formats, else 1
seed, offset: the Philox stream of `+sr` schemes (not looked at otherwise). Groups with a NaN or an infinity get a NaN
scale. Every implementation gives the same bits, stochastic rounding included.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, ScaleRule, Scheme, parse, quantize_reference
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels import _quantize_triton as kernels
from narrowgauge.kernels._cast_torch import encode, rounding_bits
from narrowgauge.kernels._scales_torch import inverse, scales
from narrowgauge.kernels._tables_torch import encode_by_table
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.op import LIBRARY, Cost, Exact, Op, Sample, register
from narrowgauge.kernels.tiles import (
    as_matrix,
    empty_codes,
    group_amax,
    is_column_major,
    multiply_tiles,
    spread_rows,
)

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CHUNK_ELEMENTS = 1 << 22
"""Elements of one CPU block, 16 MiB of float32: it bounds the buffers, and is large enough that starting and joining
threads, which is slow on a busy machine, does not count."""

# Formats whose torch cast of a clamped, finite float32 equals ours (tested on every float16 and every midpoint).
NATIVE_CASTS = {
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}


# Under the other rules no scaled value passes the largest one by more than a rounding error, which rounds back to it.
CLIPPING_RULES = (ScaleRule.FLOOR, ScaleRule.EVEN, ScaleRule.STATIC)


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


def _scaled(x: Tensor, factors: Tensor, tile: Tile) -> Tensor:
    """x times its tile's factor as fresh float32."""
    if x.dtype == torch.float64:
        return round_to_odd(multiply_tiles(x.clone(), factors.double(), tile))
    if x.dtype == torch.float32 and tile[1] in (None, 1):
        return x * spread_rows(factors, tile[0], x.shape[0])
    fresh = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return multiply_tiles(fresh, factors, tile)


def quantize_traceable(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in one piece, for a compiler to fuse; the same bits as the op. Tiles narrower than a row stay one
    call of the op: their uneven edges are more than inductor's loop splitting takes."""
    spec = parse(scheme)
    if spec.tile[1] not in (None, 1):
        return torch.ops.narrowgauge.quantize(x, scheme, seed, offset)
    matrix = as_matrix(x)
    stored, factors, outer = scales(group_amax(matrix, spec.tile), spec)
    y = _scaled(matrix, inverse(factors), spec.tile)
    random = rounding_bits(matrix.shape, seed, offset, x.device) if spec.stochastic else None
    codes = encode(y, layout_of(spec.element), random)
    return codes.view(x.shape), stored.view(spec.scale_shape(tuple(x.shape))), outer


def quantize_torch(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """The CPU implementation: amax in one sweep, then blocks that are scaled and encoded while they are in cache."""
    check_input(x)
    spec = parse(scheme)
    codes = empty_codes(x, layout_of(spec.element).code_dtype)
    matrix, target = as_matrix(x), as_matrix(codes)
    random = rounding_bits(matrix.shape, seed, offset, x.device) if spec.stochastic else None
    turned = is_column_major(x)
    tile = spec.tile
    if turned:
        # Work along the memory: the transposed problem has the transposed tiles.
        matrix, target, tile = matrix.t(), target.t(), (tile[1], tile[0])
        random = None if random is None else random.t()
    amax = group_amax(matrix, tile, max(1, CHUNK_ELEMENTS // max(matrix.shape[1], 1)))
    stored, factors, outer = scales(amax.t() if turned else amax, spec)
    factors = inverse(factors)
    _encode_blocks(matrix, target, factors.t() if turned else factors, tile, spec, random)
    return codes, stored.reshape(spec.scale_shape(tuple(x.shape))), outer


def _encode_blocks(
    matrix: Tensor, target: Tensor, factors: Tensor, tile: Tile, spec: Scheme, random: Tensor | None
) -> None:
    # A zero factor marks a group with a NaN or an infinity (or one that is zero altogether).
    may_have_nan = bool((factors == 0).any())
    height = tile[0]
    step = max(1, CHUNK_ELEMENTS // max(matrix.shape[1], 1))
    if height is not None:
        step = max(1, step // height) * height
    for start in range(0, matrix.shape[0], step):
        rows = slice(start, start + step)
        part = factors if height is None else factors[start // height : -(-(start + step) // height)]
        bits = None if random is None else random[rows]
        y = _scaled(matrix[rows], part, tile)
        if spec.rule in CLIPPING_RULES:
            y.clamp_(spec.element.min, spec.element.max)
        _encode_block(y, target[rows], spec.element, bits, may_have_nan)


def _encode_block(y: Tensor, target: Tensor, element: Format, random: Tensor | None, may_have_nan: bool) -> None:
    """Codes of float32 y, within the format's range but for roundings, into `target`: by torch's own cast, a table, or
    the formula, whichever is quickest."""
    layout = layout_of(element)
    if random is not None or may_have_nan or layout.kind == "int":
        target.copy_(encode(y, layout, random, may_have_nan=may_have_nan))
    elif element.name in NATIVE_CASTS:
        target.view(NATIVE_CASTS[element.name]).copy_(y)
    else:
        target.copy_(encode_by_table(y, element))


def _fake(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    check_input(x)
    spec = parse(scheme)
    scale_dtype = torch.uint8 if isinstance(spec.format, BlockFormat) else torch.float32
    return (
        empty_codes(x, layout_of(spec.element).code_dtype),
        x.new_empty(spec.scale_shape(tuple(x.shape)), dtype=scale_dtype),
        x.new_empty((), dtype=torch.float32),
    )


def _reference(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    wide = x.float() if x.dtype == torch.bfloat16 else x
    q = quantize_reference(wide.numpy(), scheme, seed, offset)
    return torch.from_numpy(q.codes), torch.from_numpy(np.asarray(q.scale)), torch.from_numpy(q.outer)


SAMPLE_SCHEMES = (
    "e4m3fn", "e4m3fn/row", "e4m3fn/col", "e4m3fn/1x128", "e4m3fn/128x128", "e4m3fn/128x128:pow2", "e4m3fn/4x24",
    "e5m2/row", "e5m2/1x16:floor", "e4m3fnuz/row", "e5m2fnuz", "e3m4/row:ceil", "e4m3b11fnuz/row", "binary8p1se/row",
    "binary8p3sf/row", "int8", "int8/row", "int8/32x32+sr", "int8_full/col", "uint8/row", "int4/1x32", "rf8", "rf8/row",
    "rf8/row+sr", "rf8/1x32:pow2", "e4m3fn/row+sr", "e5m2/128x128+sr", "e4m3fn:static=0.0125", "e2m3fn/row",
    "mxfp8", "mxfp8_e5m2:floor", "mxfp6_e3m2", "mxfp4", "mxfp4:even+sr", "mxint8", "mxint8:ceil", "nvfp4", "nvfp4+sr",
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)

    base = normal(37, 160)
    for scheme in SAMPLE_SCHEMES:
        yield Sample(scheme, (base, scheme, 1234567890123, 77 << 32 | 5))
    wild = base * torch.exp(3 * normal(37, 160))
    wild[3, 5], wild[9, 0], wild[20, 159] = float("nan"), float("inf"), -float("inf")
    wild[12], wild[13], wild[14] = 0.0, 3e38, 1e-42
    for scheme in ("e4m3fn/row", "int8/row", "rf8/row", "mxfp8", "mxint8", "nvfp4", "e4m3fn/1x16:rceil", "e4m3fn"):
        yield Sample(f"{scheme} wild", (wild, scheme, 1, 2))
        yield Sample(f"{scheme} transposed", (wild.t(), scheme, 1, 2))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for scheme in ("e4m3fn/row", "e5m2/1x128+sr", "int8", "mxfp8", "rf8/32x32"):
            yield Sample(f"{scheme} {dtype}", (base.to(dtype), scheme, 3, 4))
    shapes: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (1, 1), (0, 8), (8, 0), (3, 5, 17), (1, 131), (127, 1))
    for shape in shapes:
        for scheme in ("e4m3fn/row", "int8", "e4m3fn/4x8+sr", "mxfp8", "nvfp4", "e5m2/col"):
            yield Sample(f"{scheme} {shape}", (normal(*shape), scheme, 5, 6))
    strided = normal(40, 300)[::2, 7:200:3]
    for scheme in ("e4m3fn/row", "int8/8x8+sr", "nvfp4", "e5m2"):
        yield Sample(f"{scheme} strided", (strided, scheme, 7, 8))


def _cost(x: Tensor, scheme: str, seed: int, offset: int) -> Cost:
    spec = parse(scheme)
    scales_bytes = int(np.prod(spec.scale_shape(tuple(x.shape)))) * spec.scale_bits / 8
    return Cost(flops=2.0 * x.numel(), bytes=x.numel() * (x.element_size() + 1) + scales_bytes)


QUANTIZE = register(
    Op(
        name="quantize",
        schema="(Tensor x, str scheme, int seed, int offset) -> (Tensor codes, Tensor scale, Tensor outer)",
        reference=_reference,
        torch_impl=quantize_torch,
        triton_impl=kernels.quantize_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=kernels.compile_cases,
    )
)

# A composite: tracers keep the call in the graph and take it apart below Python's level, where inductor fuses it.
LIBRARY.define("quantize_traceable" + QUANTIZE.schema)
LIBRARY.impl("quantize_traceable", quantize_traceable, "CompositeImplicitAutograd")
