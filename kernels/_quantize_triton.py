"""Triton kernels of quantize. Tiles that fit one program are read once (`_fused_kernel`); larger or odd ones take two
launches, `_amax_kernel` (atomic maximum on the bits, which orders NaN above infinity) and `_encode_kernel`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, ScaleRule, Scheme, parse
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE, SMALLEST_SCALE, exponent_parameters
from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import Layout, layout_of
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tiles import as_matrix, empty_codes, tile_counts

FUSED_ELEMENTS = 8192
"""Elements that one program of the fused kernel holds in registers, tiles included."""


@jit
def _load(x_ptr, offs_m, offs_k, M, K, stride_m, stride_k):
    """float32 tile of x; float64 rounds to odd later, so it stays float64."""
    mask = (offs_m < M) & (offs_k < K)
    x = tl.load(x_ptr + offs_m * stride_m + offs_k * stride_k, mask=mask, other=0.0)
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@jit
def _scale_of(amax, outer, RULE: tl.constexpr, MAX: tl.constexpr, CARRY: tl.constexpr, EMAX: tl.constexpr,
              STATIC: tl.constexpr, TINY: tl.constexpr, SCALE_F: tl.constexpr):  # fmt: skip
    """(stored scale, float32 factor) of each tile. RULE: amax, static, pow2 (float32 power of two), e8m0 or outer."""
    finite = _cast.is_finite(amax)
    safe = tl.where(finite, amax, 0.0)
    if RULE == "outer":
        code = _cast.encode(_cast.divide(safe, tl.zeros_like(safe) + outer * MAX), 0, SCALE_F, False)
        code = tl.where(finite, code, SCALE_F.nan_code)
        return code, _cast.decode(code, SCALE_F) * outer
    if RULE == "e8m0":
        exponent = _cast.scale_exponent(safe, CARRY, EMAX, -127)
        factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
        return tl.where(finite, exponent + 127, 0xFF), factor
    if RULE == "amax":
        scale = _cast.amax_scale(amax, MAX, TINY)
    elif RULE == "static":
        scale = tl.where(finite, STATIC, float("nan"))
    else:
        scale = tl.where(finite, _cast.power_of_two(_cast.scale_exponent(safe, CARRY, EMAX, -126)), float("nan"))
    return scale, scale


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
    if x.dtype == tl.float64:
        return _round_to_odd(x * inverse.to(tl.float64))
    return x * inverse


@jit
def _store_codes(y, codes_ptr, offs_m, offs_k, M, K, stride_cm, stride_ck, seed, offset, F: tl.constexpr,
                 STOCHASTIC: tl.constexpr):  # fmt: skip
    random = 0
    if STOCHASTIC:
        random = _cast.rounding_bits(seed, offset, offs_m * K + offs_k)
    code = _cast.encode(y, random, F, STOCHASTIC)
    mask = (offs_m < M) & (offs_k < K)
    tl.store(codes_ptr + offs_m * stride_cm + offs_k * stride_ck, code.to(codes_ptr.dtype.element_ty), mask=mask)


@jit
def _fused_kernel(x_ptr, codes_ptr, scale_ptr, outer_ptr, M, K, TILES_K, stride_xm, stride_xk, stride_cm, stride_ck,
                  seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, RULE: tl.constexpr, MAX: tl.constexpr,
                  CARRY: tl.constexpr, EMAX: tl.constexpr, STATIC: tl.constexpr, TINY: tl.constexpr,
                  SCALE_F: tl.constexpr, TILE_M: tl.constexpr, TILE_K: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_K: tl.constexpr):  # fmt: skip
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
    stored, factor = _scale_of(amax, outer, RULE, MAX, CARRY, EMAX, STATIC, TINY, SCALE_F)
    tiles_m = pid_m * DOWN + tl.arange(0, DOWN)[:, None]
    tiles_k = pid_k * ACROSS + tl.arange(0, ACROSS)[None, :]
    in_range = (tiles_m < tl.cdiv(M, TILE_M)) & (tiles_k < TILES_K)
    tl.store(scale_ptr + tiles_m * TILES_K + tiles_k, stored.to(scale_ptr.dtype.element_ty), mask=in_range)
    inverse = _cast.inverse_scale(factor)
    spread = tl.broadcast_to(inverse[:, None, :, None], (DOWN, TILE_M, ACROSS, TILE_K))
    y = _times(x, tl.reshape(spread, (BLOCK_M, BLOCK_K)))
    _store_codes(y, codes_ptr, offs_m, offs_k, M, K, stride_cm, stride_ck, seed, offset, F, STOCHASTIC)


@jit
def _amax_kernel(x_ptr, amax_ptr, M, K, TILE_M, TILE_K, TILES_K, stride_xm, stride_xk, BLOCK_M: tl.constexpr,
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
def _encode_kernel(x_ptr, codes_ptr, factor_ptr, M, K, TILE_M, TILE_K, TILES_K, stride_xm, stride_xk, stride_cm,
                   stride_ck, seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK_M: tl.constexpr,
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
    _store_codes(y, codes_ptr, offs_m, offs_k, M, K, stride_cm, stride_ck, seed, offset, F, STOCHASTIC)


@jit
def _scales_kernel(amax_ptr, scale_ptr, factor_ptr, outer_ptr, N, RULE: tl.constexpr, MAX: tl.constexpr,
                   CARRY: tl.constexpr, EMAX: tl.constexpr, STATIC: tl.constexpr, TINY: tl.constexpr,
                   SCALE_F: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Stored scales and float32 factors of N tiles from the bits of their amax."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    amax = _cast.float_of(tl.load(amax_ptr + offs, mask=offs < N, other=0))
    stored, factor = _scale_of(amax, tl.load(outer_ptr), RULE, MAX, CARRY, EMAX, STATIC, TINY, SCALE_F)
    tl.store(scale_ptr + offs, stored.to(scale_ptr.dtype.element_ty), mask=offs < N)
    tl.store(factor_ptr + offs, factor, mask=offs < N)


@jit
def _outer_kernel(amax_ptr, outer_ptr, N, MAX: tl.constexpr, TINY: tl.constexpr, BLOCK: tl.constexpr):
    """The per-tensor scale from the bits of N block maxima, non-finite blocks left out; one program."""
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, N, BLOCK):
        offs = start + tl.arange(0, BLOCK)
        amax = _cast.float_of(tl.load(amax_ptr + offs, mask=offs < N, other=0))
        largest = tl.maximum(largest, tl.where(_cast.is_finite(amax), amax, 0.0))
    tl.store(outer_ptr, _cast.amax_scale(tl.max(largest), MAX, TINY))


@dataclass(frozen=True)
class Plan:
    """Block of one program; `fused` if it holds whole tiles (of TILE_M x TILE_K, powers of two)."""

    fused: bool
    block_m: int
    block_k: int
    tile_m: int
    tile_k: int
    num_warps: int


def plan(rows: int, cols: int, spec: Scheme) -> Plan:
    """How a [rows, cols] tensor is cut; a pure function."""
    height = spec.tile[0] or max(rows, 1)
    width = spec.tile[1] or max(cols, 1)
    tall, wide = _ceil_pow2(height), _ceil_pow2(width)
    single_column = width >= cols
    single_row = height >= rows
    exact = (tall == height or single_row) and (wide == width or single_column)
    two_level = isinstance(spec.format, BlockFormat) and spec.format.two_level
    if exact and not two_level and tall * wide <= 2 * FUSED_ELEMENTS:
        block_k = max(wide, min(_ceil_pow2(max(cols, 1)), max(wide, 1024)))
        block_m = max(tall, min(_ceil_pow2(max(rows, 1)), max(1, FUSED_ELEMENTS // 2 // block_k)))
        return Plan(True, block_m, block_k, tall, wide, 8 if block_m * block_k > 4096 else 4)
    block_k = min(_ceil_pow2(max(cols, 1)), 512)
    block_m = min(_ceil_pow2(max(rows, 1)), 4096 // block_k)
    return Plan(False, block_m, block_k, height, width, 4)


def _ceil_pow2(n: int) -> int:
    return 1 << (n - 1).bit_length() if n > 1 else 1


def _scale_constants(spec: Scheme) -> dict[str, object]:
    """Compile-time arguments of `_scale_of`."""
    fmt = spec.format
    scale_format = layout_of(fmt.scale_format) if isinstance(fmt, BlockFormat) and fmt.two_level else None
    if scale_format is not None:
        rule, carry, emax = "outer", 0, 0
    elif spec.rule.power_of_two:
        rule = "e8m0" if isinstance(fmt, BlockFormat) else "pow2"
        carry, emax = exponent_parameters(spec.element, spec.rule)
    else:
        rule, carry, emax = ("static" if spec.rule is ScaleRule.STATIC else "amax"), 0, 0
    return {
        "RULE": rule,
        "MAX": spec.element.max,
        "CARRY": carry,
        "EMAX": emax,
        "STATIC": spec.static or 0.0,
        "TINY": SMALLEST_SCALE,
        "SCALE_F": scale_format,
    }


def quantize_triton(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the kernels; see kernels/quantize.py for the contract."""
    spec = parse(scheme)
    layout = layout_of(spec.element)
    codes = empty_codes(x, layout.code_dtype)
    matrix, target = as_matrix(x), as_matrix(codes)
    rows, cols = matrix.shape
    down, across = tile_counts(matrix.shape, spec.tile)
    block = isinstance(spec.format, BlockFormat)
    scale = x.new_empty(spec.scale_shape(tuple(x.shape)), dtype=torch.uint8 if block else torch.float32)
    outer = x.new_ones((), dtype=torch.float32)
    cut = plan(rows, cols, spec)
    grid = (triton.cdiv(rows, cut.block_m) * triton.cdiv(cols, cut.block_k),)
    strides = (*matrix.stride(), *target.stride())
    constants = _scale_constants(spec)
    shared = {"F": layout, "STOCHASTIC": spec.stochastic, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k}
    if cut.fused and rows and cols:
        _fused_kernel[grid](
            matrix, target, scale, outer, rows, cols, across, *strides, seed, offset, **shared, **constants,
            TILE_M=cut.tile_m, TILE_K=cut.tile_k, num_warps=cut.num_warps,
        )  # fmt: skip
        return codes, scale, outer
    amax = torch.zeros(down * across, dtype=torch.int32, device=x.device)
    factors = torch.empty(down * across, dtype=torch.float32, device=x.device)
    tiles = (rows, cols, cut.tile_m, cut.tile_k, across)
    if rows and cols:
        _amax_kernel[grid](matrix, amax, *tiles, *strides[:2], cut.block_m, cut.block_k, num_warps=cut.num_warps)
    if amax.numel():
        _launch_scales(amax, scale, factors, outer, spec, constants)
    if rows and cols:
        _encode_kernel[grid](
            matrix, target, factors, *tiles, *strides, seed, offset, **shared, num_warps=cut.num_warps
        )  # fmt: skip
    return codes, scale, outer


def _launch_scales(
    amax: Tensor, scale: Tensor, factors: Tensor, outer: Tensor, spec: Scheme, constants: dict[str, object]
) -> None:
    count = amax.numel()
    if isinstance(spec.format, BlockFormat) and spec.format.two_level:
        _outer_kernel[(1,)](amax, outer, count, spec.format.outer_divisor, SMALLEST_OUTER_SCALE, 1024)
    _scales_kernel[(triton.cdiv(count, 1024),)](amax, scale, factors, outer, count, **constants, BLOCK=1024)


def _fused_case(name: str, scheme: str, rows: int, cols: int, dtype: str = "fp32") -> CompileCase:
    spec = parse(scheme)
    layout: Layout = layout_of(spec.element)
    cut = plan(rows, cols, spec)
    scale = "*u8" if isinstance(spec.format, BlockFormat) else "*fp32"
    code = "*i8" if layout.code_dtype is torch.int8 else "*u8"
    signature = {"x_ptr": f"*{dtype}", "codes_ptr": code, "scale_ptr": scale, "outer_ptr": "*fp32"}
    signature |= dict.fromkeys(("M", "K", "TILES_K", "stride_xm", "stride_cm"), "i32")
    signature |= {"seed": "i64", "offset": "i64"}
    constants = {
        **_scale_constants(spec), "stride_xk": 1, "stride_ck": 1, "F": layout, "STOCHASTIC": spec.stochastic,
        "TILE_M": cut.tile_m, "TILE_K": cut.tile_k, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k,
    }  # fmt: skip
    return CompileCase(name, _fused_kernel, signature, constants, num_warps=cut.num_warps)


def compile_cases() -> Iterator[CompileCase]:
    """The fused kernel in the shapes that training meets."""
    yield _fused_case("quantize e4m3fn/row bf16", "e4m3fn/row", 4096, 4096, "bf16")
    yield _fused_case("quantize e4m3fn/1x128 bf16", "e4m3fn/1x128", 4096, 4096, "bf16")
    yield _fused_case("quantize e4m3fn/128x128", "e4m3fn/128x128", 4096, 4096)
    yield _fused_case("quantize int8/32x32+sr", "int8/32x32+sr", 4096, 4096)
    yield _fused_case("quantize mxfp8 bf16", "mxfp8", 4096, 4096, "bf16")
    yield _fused_case("quantize rf8/row", "rf8/row", 4096, 4096)
