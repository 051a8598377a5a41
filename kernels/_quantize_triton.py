"""Triton kernels of quantize. Tiles that fit one program are read once (`fused_kernel`); larger or odd ones take two
launches, `amax_kernel` (atomic maximum on the bits, which orders NaN above infinity) and `encode_kernel`."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE
from narrowgauge.kernels import _cast
from narrowgauge.kernels._quantize_plan import plan, scale_layout, torch_scales
from narrowgauge.kernels._quantize_torch import clipping_points
from narrowgauge.kernels._scales_torch import block_scales, pair_codes, scales
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import blob_for, layout_for, scale_dtype
from narrowgauge.kernels.tiles import as_matrix, empty_codes, tile_counts


@jit
def _load(x_ptr, offs_m, offs_k, M, K, stride_m, stride_k):
    """float32 tile of x; float64 rounds to odd later, so it stays float64."""
    mask = (offs_m < M) & (offs_k < K)
    x = tl.load(x_ptr + offs_m * stride_m + offs_k * stride_k, mask=mask, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@jit
def _scale_of(amax, outer, S: tl.constexpr):
    """(stored scale, float32 factor) of each tile. S: a `ScaleLayout`."""
    finite = _cast.is_finite(amax)
    safe = tl.where(finite, amax, 0.0)
    if S.rule == "outer":
        code = _cast.encode(_cast.divide(safe, tl.zeros_like(safe) + outer * S.largest), 0, None, S.element, False)
        stored = tl.where(finite, code, S.element.nan_code)
        factor = _cast.decode(stored, None, S.element) * outer
    elif S.rule == "code":
        exponent = _cast.scale_exponent(safe, S.carry, S.emax, S.lowest, S.highest, S.zero_exponent)
        stored = tl.where(finite, exponent + S.bias, S.nan_code)
        factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
    else:
        if S.rule == "amax":
            factor = _cast.amax_scale(amax, S.largest, _cast.TINY, S.zero)
        elif S.rule == "static":
            factor = tl.where(finite, S.static, float("nan"))
        else:
            exponent = _cast.scale_exponent(safe, S.carry, S.emax, S.lowest, S.highest, S.zero_exponent)
            factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
            factor = tl.where(amax == 0.0, S.zero, factor)
        stored = factor
    return stored, factor


@jit
def _round_to_odd(x):
    """float64 → float32, inexact values to the odd neighbour."""
    inf = x * 0.0 != 0.0
    clipped = tl.where(inf, x, tl.minimum(tl.maximum(x, -3.4028234663852886e38), 3.4028234663852886e38))
    near = clipped.to(tl.float32)
    back = near.to(tl.float64)
    bits = _cast.bits_of(near)
    moved = tl.where(tl.abs(clipped) > tl.abs(back), bits + 1, bits - 1)
    keep = (back == clipped) | (clipped != clipped) | ((bits & 1) == 1)
    return _cast.float_of(tl.where(keep, bits, moved))


@jit
def _times(x, inverse):
    """x · inverse as float32."""
    return _round_to_odd(x * inverse.to(tl.float64)) if x.dtype == tl.float64 else x * inverse


@jit
def _store_codes(y, codes_ptr, table_ptr, offs_m, offs_k, M, K, stride_cm, stride_ck, seed, offset, F: tl.constexpr,
                 STOCHASTIC: tl.constexpr):  # fmt: skip
    random = 0
    if STOCHASTIC:
        random = _cast.rounding_bits(seed, offset, offs_m * K + offs_k)
    code = _cast.encode(y, random, table_ptr, F, STOCHASTIC)
    mask = (offs_m < M) & (offs_k < K)
    tl.store(codes_ptr + offs_m * stride_cm + offs_k * stride_ck, code.to(codes_ptr.dtype.element_ty), mask=mask)


@jit
def fused_kernel(x_ptr, codes_ptr, scale_ptr, outer_ptr, table_ptr, M, K, TILES_K, stride_xm, stride_xk, stride_cm,
                 stride_ck, seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, S: tl.constexpr,
                 TILE_M: tl.constexpr, TILE_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """A block of whole tiles: read, reduce, scale, encode, write."""
    DOWN: tl.constexpr = BLOCK_M // TILE_M
    ACROSS: tl.constexpr = BLOCK_K // TILE_K
    blocks_k = tl.cdiv(K, BLOCK_K)
    pid = tl.program_id(0)
    pid_m = (pid // blocks_k).to(tl.int64)
    pid_k = (pid % blocks_k).to(tl.int64)
    offs_m = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    offs_k = (pid_k * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    x = _load(x_ptr, offs_m, offs_k, M, K, stride_xm, stride_xk)
    # Bits of magnitudes order like the magnitudes, with NaN on top.
    bits = tl.reshape(_cast.bits_of(tl.abs(x).to(tl.float32)), (DOWN, TILE_M, ACROSS, TILE_K))
    amax = _cast.float_of(tl.max(tl.max(bits, axis=3), axis=1))
    outer = tl.load(outer_ptr)
    stored, factor = _scale_of(amax, outer, S)
    tiles_m = pid_m * DOWN + tl.arange(0, DOWN)[:, None]
    tiles_k = pid_k * ACROSS + tl.arange(0, ACROSS)[None, :]
    in_range = (tiles_m < tl.cdiv(M, TILE_M)) & (tiles_k < TILES_K)
    tl.store(scale_ptr + tiles_m * TILES_K + tiles_k, stored.to(scale_ptr.dtype.element_ty), mask=in_range)
    inverse = _cast.inverse_scale(factor)
    spread = tl.broadcast_to(inverse[:, None, :, None], (DOWN, TILE_M, ACROSS, TILE_K))
    y = _times(x, tl.reshape(spread, (BLOCK_M, BLOCK_K)))
    _store_codes(y, codes_ptr, table_ptr, offs_m, offs_k, M, K, stride_cm, stride_ck, seed, offset, F, STOCHASTIC)


@jit
def amax_kernel(x_ptr, amax_ptr, M, K, TILE_M, TILE_K, TILES_K, stride_xm, stride_xk, BLOCK_M: tl.constexpr,
                 BLOCK_K: tl.constexpr):  # fmt: skip
    """Bits of max |x| per tile, by one atomic maximum per row segment (or per block, for one tile in all)."""
    blocks_k = tl.cdiv(K, BLOCK_K)
    pid = tl.program_id(0)
    offs_m = ((pid // blocks_k).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    offs_k = ((pid % blocks_k).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    x = _load(x_ptr, offs_m, offs_k, M, K, stride_xm, stride_xk)
    bits = _cast.bits_of(tl.abs(x).to(tl.float32))
    mask = (offs_m < M) & (offs_k < K)
    if (TILE_K >= K) & (TILE_M >= M):
        tl.atomic_max(amax_ptr, tl.max(bits))
    elif TILE_K >= K:
        rows = tl.max(bits, axis=1)[:, None]
        tl.atomic_max(amax_ptr + offs_m // TILE_M, rows, mask=offs_m < M)
    elif TILE_M >= M:
        cols = tl.max(bits, axis=0)[None, :]
        tl.atomic_max(amax_ptr + offs_k // TILE_K, cols, mask=offs_k < K)
    else:
        tl.atomic_max(amax_ptr + (offs_m // TILE_M) * TILES_K + offs_k // TILE_K, bits, mask=mask)


@jit
def encode_kernel(x_ptr, codes_ptr, factor_ptr, table_ptr, M, K, TILE_M, TILE_K, TILES_K, stride_xm, stride_xk,
                   stride_cm, stride_ck, seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK_M: tl.constexpr,
                   BLOCK_K: tl.constexpr):  # fmt: skip
    """Codes of x under the tiles' float32 factors."""
    blocks_k = tl.cdiv(K, BLOCK_K)
    pid = tl.program_id(0)
    offs_m = ((pid // blocks_k).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    offs_k = ((pid % blocks_k).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    x = _load(x_ptr, offs_m, offs_k, M, K, stride_xm, stride_xk)
    mask = (offs_m < M) & (offs_k < K)
    factor = tl.load(factor_ptr + (offs_m // TILE_M) * TILES_K + offs_k // TILE_K, mask=mask, other=1.0)
    y = _times(x, _cast.inverse_scale(factor))
    _store_codes(y, codes_ptr, table_ptr, offs_m, offs_k, M, K, stride_cm, stride_ck, seed, offset, F, STOCHASTIC)


@jit
def scales_kernel(amax_ptr, scale_ptr, factor_ptr, outer_ptr, N, S: tl.constexpr, BLOCK: tl.constexpr):
    """Stored scales and float32 factors of N tiles from the bits of their amax."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    amax = _cast.float_of(tl.load(amax_ptr + offs, mask=offs < N, other=0))
    stored, factor = _scale_of(amax, tl.load(outer_ptr), S)
    tl.store(scale_ptr + offs, stored.to(scale_ptr.dtype.element_ty), mask=offs < N)
    tl.store(factor_ptr + offs, factor, mask=offs < N)


@jit
def outer_kernel(amax_ptr, outer_ptr, N, MAX: tl.constexpr, TINY: tl.constexpr, BLOCK: tl.constexpr):
    """The per-tensor scale from the bits of N block maxima, non-finite blocks left out; one program."""
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, N, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        amax = _cast.float_of(tl.load(amax_ptr + offs, mask=offs < N, other=0))
        largest = tl.maximum(largest, tl.where(_cast.is_finite(amax), amax, 0.0))
    tl.store(outer_ptr, _cast.amax_scale(tl.max(largest), MAX, TINY, 1.0))


def quantize_triton(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the kernels; see kernels/quantize.py for the contract."""
    spec = parse(scheme)
    layout = layout_for(spec)
    codes = empty_codes(x, layout.code_dtype)
    matrix, target = as_matrix(x), as_matrix(codes)
    rows, cols = matrix.shape
    scale = x.new_empty(spec.scale_shape(tuple(x.shape)), dtype=scale_dtype(spec))
    outer = x.new_ones((), dtype=torch.float32)
    cut = plan(rows, cols, spec)
    grid = (triton.cdiv(rows, cut.block_m) * triton.cdiv(cols, cut.block_k),)
    strides = (*matrix.stride(), *target.stride())
    table = blob_for(spec, x.device)
    shared = {"F": layout, "STOCHASTIC": spec.stochastic, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k}
    down, across = tile_counts(matrix.shape, spec.factor_tile)
    if cut.fused and rows and cols:
        fused_kernel[grid](
            matrix, target, scale, outer, table, rows, cols, across, *strides, seed, offset, **shared,
            S=scale_layout(spec), TILE_M=cut.tile_m, TILE_K=cut.tile_k, num_warps=cut.num_warps,
        )  # fmt: skip
        return codes, scale, outer
    amax = torch.zeros((down, across), dtype=torch.int32, device=x.device)
    tiles = (rows, cols, cut.tile_m, cut.tile_k, across)
    if rows and cols:
        amax_kernel[grid](matrix, amax, *tiles, *strides[:2], cut.block_m, cut.block_k, num_warps=cut.num_warps)
    launch_scales = _torch_scales if torch_scales(spec) else _launch_scales
    factors = launch_scales(matrix, amax, scale, outer, spec)
    if rows and cols:
        encode_kernel[grid](
            matrix, target, factors, table, *tiles, *strides, seed, offset, **shared, num_warps=cut.num_warps
        )  # fmt: skip
    return codes, scale, outer


def _launch_scales(matrix: Tensor, amax: Tensor, scale: Tensor, outer: Tensor, spec: Scheme) -> Tensor:
    """Writes scale and outer; the factors of the tiles. amax: bits of the tiles' largest magnitudes."""
    factors = torch.empty(amax.shape, dtype=torch.float32, device=amax.device)
    count = amax.numel()
    if count:
        if isinstance(spec.format, BlockFormat) and spec.format.two_level:
            outer_kernel[(1,)](amax, outer, count, spec.format.outer_divisor, SMALLEST_OUTER_SCALE, 1024)
        grid = (triton.cdiv(count, 1024),)
        scales_kernel[grid](amax, scale, factors, outer, count, S=scale_layout(spec), BLOCK=1024)
    return factors


def _torch_scales(matrix: Tensor, amax: Tensor, scale: Tensor, outer: Tensor, spec: Scheme) -> Tensor:
    """`_launch_scales` for what torch computes (see `torch_scales`)."""
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
