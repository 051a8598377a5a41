"""Triton kernels of quantize. Tiles that fit one program are read once (`fused_kernel`), longer rows twice by one
program (`rows_kernel`); larger or odd tiles take several launches: `amax_kernel` (atomic maximum on the bits, which
orders NaN above infinity), the scales, and `encode_kernel`. Two-level formats need the tensor's scale first:
`largest_kernel`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.kernels import _cast
from narrowgauge.kernels._quantize_device import (
    block_corner,
    load,
    load_units,
    outer_scale,
    raise_largest,
    raise_maxima,
    save_codes,
    save_scales,
    scale_of,
    scaled,
)
from narrowgauge.kernels._quantize_plan import plan, scale_layout, torch_scales
from narrowgauge.kernels._quantize_torch import check_input, clipping_points
from narrowgauge.kernels._scales_torch import block_scales, pair_codes, scales
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import blob_for, layout_for, scale_dtype
from narrowgauge.kernels.tiles import as_matrix, empty_codes, is_column_major, tile_counts


@jit
def largest_kernel(x_ptr, largest_ptr, M, K, stride_xm, stride_xk, T: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_K: tl.constexpr):  # fmt: skip
    """Bits of max |x| over the tiles that are finite."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    raise_largest(
        load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K), largest_ptr, T, BLOCK_M, BLOCK_K
    )


@jit
def fused_kernel(x_ptr, codes_ptr, scale_ptr, outer_ptr, largest_ptr, table_ptr, M, K, TILES_K, stride_xm, stride_xk,
                 stride_cm, stride_ck, seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr,
                 S: tl.constexpr, T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """A block of whole tiles: read, reduce, scale, encode, write."""
    outer = outer_scale(largest_ptr, outer_ptr, S)
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    inverse = save_scales(x, scale_ptr, outer, first_m, first_k, M, K, TILES_K, 1, S, T, BLOCK_M, BLOCK_K)
    y = scaled(x, inverse, T, BLOCK_M, BLOCK_K)
    save_codes(
        y, codes_ptr, table_ptr, first_m, first_k, M, K, stride_cm, stride_ck, seed, offset, F, STOCHASTIC, FOURS,
        BLOCK_M, BLOCK_K,
    )  # fmt: skip


@jit
def rows_kernel(x_ptr, codes_ptr, scale_ptr, table_ptr, M, K, stride_xm, stride_xk, stride_cm, stride_ck, seed, offset,
                F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
                BLOCK_K: tl.constexpr):  # fmt: skip
    """A row that no program holds: read for its maximum, then again, out of the cache, for its codes."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((1, BLOCK_K), tl.int32)
    for start in range(0, K, BLOCK_K):
        x = load(x_ptr, row, tl.cast(start, tl.int64), M, K, stride_xm, stride_xk, 1, BLOCK_K)
        largest = tl.maximum(largest, _cast.bits_of(tl.abs(x).to(tl.float32)))
    inverse = save_scales(_cast.float_of(largest), scale_ptr, 1.0, row, 0, M, K, 1, 1, S, T, 1, BLOCK_K)
    for start in range(0, K, BLOCK_K):
        first_k = tl.cast(start, tl.int64)
        x = load(x_ptr, row, first_k, M, K, stride_xm, stride_xk, 1, BLOCK_K)
        save_codes(
            scaled(x, inverse, T, 1, BLOCK_K), codes_ptr, table_ptr, row, first_k, M, K, stride_cm, stride_ck, seed,
            offset, F, STOCHASTIC, FOURS, 1, BLOCK_K,
        )  # fmt: skip


@jit
def amax_kernel(x_ptr, amax_ptr, M, K, TILES_K, stride_xm, stride_xk, T: tl.constexpr, BLOCK_M: tl.constexpr,
                BLOCK_K: tl.constexpr):  # fmt: skip
    """Bits of max |x| per tile, by one atomic maximum per unit of a block."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    raise_maxima(x, amax_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)


@jit
def encode_kernel(x_ptr, codes_ptr, factor_ptr, table_ptr, M, K, TILES_K, stride_xm, stride_xk, stride_cm, stride_ck,
                  seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr, T: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Codes of x under the tiles' float32 factors."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    factor = load_units(factor_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)
    y = scaled(x, _cast.inverse_scale(factor), T, BLOCK_M, BLOCK_K)
    save_codes(
        y, codes_ptr, table_ptr, first_m, first_k, M, K, stride_cm, stride_ck, seed, offset, F, STOCHASTIC, FOURS,
        BLOCK_M, BLOCK_K,
    )  # fmt: skip


@jit
def scales_kernel(amax_ptr, scale_ptr, factor_ptr, N, S: tl.constexpr, BLOCK: tl.constexpr):
    """Stored scales and float32 factors of N tiles from the bits of their amax."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    amax = _cast.float_of(tl.load(amax_ptr + offs, mask=offs < N, other=0))
    stored, factor, _ = scale_of(amax, 1.0, S)
    tl.store(scale_ptr + offs, stored.to(scale_ptr.dtype.element_ty), mask=offs < N)
    tl.store(factor_ptr + offs, factor, mask=offs < N)


def encoding(spec: Scheme, cols: int, block_k: int) -> dict[str, Any]:
    """What kernels know of a scheme's codes at compile time, for a matrix of so many columns in such blocks."""
    fours = spec.stochastic and cols % 4 == 0 and block_k % 4 == 0
    return {"F": layout_for(spec), "STOCHASTIC": spec.stochastic, "FOURS": fours}


def empty_quantized(x: Tensor, spec: Scheme) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale, and an outer scale of 1 for `x`."""
    scale = x.new_empty(spec.scale_shape(tuple(x.shape)), dtype=scale_dtype(spec))
    return empty_codes(x, layout_for(spec).code_dtype), scale, x.new_ones((), dtype=torch.float32)


def quantize_triton(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the kernels; see kernels/quantize.py for the contract."""
    check_input(x)
    spec = parse(scheme)
    codes, scale, outer = empty_quantized(x, spec)
    matrix, target = as_matrix(x), as_matrix(codes)
    rows, cols = matrix.shape
    cut = plan(rows, cols, spec, is_column_major(matrix))
    blocks = {"T": cut.tiling, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k, "num_warps": cut.num_warps}
    grid = (triton.cdiv(rows, cut.block_m) * triton.cdiv(cols, cut.block_k),)
    strides = (*matrix.stride(), *target.stride())
    table, constants = blob_for(spec, x.device), encoding(spec, cols, cut.block_k)
    down, across = tile_counts(matrix.shape, spec.factor_tile)
    if cut.kind == "fused" and rows and cols:
        largest = None
        if spec.two_level:
            largest = torch.zeros((), dtype=torch.int32, device=x.device)
            largest_kernel[grid](matrix, largest, rows, cols, *strides[:2], **blocks)
        fused_kernel[grid](
            matrix, target, scale, outer, largest, table, rows, cols, across, *strides, seed, offset, **constants,
            **blocks, S=scale_layout(spec),
        )  # fmt: skip
        return codes, scale, outer
    if cut.kind == "rows":
        del blocks["BLOCK_M"]
        rows_kernel[(rows,)](
            matrix, target, scale, table, rows, cols, *strides, seed, offset, **constants, **blocks,
            S=scale_layout(spec),
        )  # fmt: skip
        return codes, scale, outer
    amax = torch.zeros((down, across), dtype=torch.int32, device=x.device)
    if rows and cols:
        amax_kernel[grid](matrix, amax, rows, cols, across, *strides[:2], **blocks)
    factors = launch_scales(matrix, amax, scale, outer, spec)
    if rows and cols:
        encode_kernel[grid](
            matrix, target, factors, table, rows, cols, across, *strides, seed, offset, **constants, **blocks
        )  # fmt: skip
    return codes, scale, outer


def launch_scales(matrix: Tensor, amax: Tensor, scale: Tensor, outer: Tensor, spec: Scheme) -> Tensor:
    """Writes scale and outer; the factors of the tiles. amax: bits of the tiles' largest magnitudes. matrix: for rules
    that search."""
    if torch_scales(spec) or spec.two_level:
        return _torch_scales(matrix, amax, scale, outer, spec)
    factors = torch.empty(amax.shape, dtype=torch.float32, device=amax.device)
    count = amax.numel()
    if count:
        scales_kernel[(triton.cdiv(count, 1024),)](amax, scale, factors, count, S=scale_layout(spec), BLOCK=1024)
    return factors


def _torch_scales(matrix: Tensor, amax: Tensor, scale: Tensor, outer: Tensor, spec: Scheme) -> Tensor:
    """`launch_scales` for what torch computes (see `torch_scales`), and for two-level tiles that no program holds."""
    maxima = amax.view(torch.float32)
    if isinstance(spec.format, BlockFormat) and spec.format.micro_size:
        stored = pair_codes(maxima, spec, spec.format).stored
        factors = block_scales(stored, spec.format, outer)[:, : maxima.shape[1]]
    else:
        if spec.rule.searches:
            maxima = clipping_points(matrix, maxima, spec)
        stored, factors, whole = scales(maxima, spec)
        outer.copy_(whole)
    scale.copy_(stored.reshape(scale.shape))
    return factors.contiguous()
