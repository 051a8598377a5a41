"""Triton kernels of quantize. Tiles that fit one program are read once (`_fused_kernel`); larger or odd ones take two
launches, `_amax_kernel` (atomic maximum on the bits, which orders NaN above infinity) and `_encode_kernel`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE
from narrowgauge.kernels import _cast
from narrowgauge.kernels._quantize_plan import plan, scale_constants
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import Layout, layout_of
from narrowgauge.kernels.op import CompileCase
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
def _scale_of(amax, outer, RULE: tl.constexpr, MAX: tl.constexpr, CARRY: tl.constexpr, EMAX: tl.constexpr,
              STATIC: tl.constexpr, TINY: tl.constexpr, SCALE_F: tl.constexpr):  # fmt: skip
    """(stored scale, float32 factor) of each tile. RULE: amax, static, pow2 (float32 power of two), e8m0 or outer."""
    finite = _cast.is_finite(amax)
    safe = tl.where(finite, amax, 0.0)
    if RULE == "outer":
        code = _cast.encode(_cast.divide(safe, tl.zeros_like(safe) + outer * MAX), 0, SCALE_F, False)
        stored = tl.where(finite, code, SCALE_F.nan_code)
        factor = _cast.decode(stored, SCALE_F) * outer
    elif RULE == "e8m0":
        exponent = _cast.scale_exponent(safe, CARRY, EMAX, -127)
        stored = tl.where(finite, exponent + 127, 0xFF)
        factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
    else:
        if RULE == "amax":
            factor = _cast.amax_scale(amax, MAX, TINY)
        elif RULE == "static":
            factor = tl.where(finite, STATIC, float("nan"))
        else:
            exponent = _cast.scale_exponent(safe, CARRY, EMAX, -126)
            factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
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
    constants = scale_constants(spec)
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
        **scale_constants(spec), "stride_xk": 1, "stride_ck": 1, "F": layout, "STOCHASTIC": spec.stochastic,
        "TILE_M": cut.tile_m, "TILE_K": cut.tile_k, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k,
    }  # fmt: skip
    return CompileCase(name, _fused_kernel, signature, constants, num_warps=cut.num_warps)


def _two_stage_cases(name: str, scheme: str, rows: int, cols: int) -> Iterator[CompileCase]:
    """The kernels of a tensor whose tiles no program holds."""
    spec = parse(scheme)
    layout = layout_of(spec.element)
    cut = plan(rows, cols, spec)
    block = isinstance(spec.format, BlockFormat)
    blocks = {"BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k}
    sizes = dict.fromkeys(("M", "K", "TILE_M", "TILE_K", "TILES_K", "stride_xm"), "i32")
    constants = scale_constants(spec)
    yield CompileCase(
        f"{name} amax", _amax_kernel, {"x_ptr": "*fp32", "amax_ptr": "*i32", **sizes}, {"stride_xk": 1, **blocks}
    )
    yield CompileCase(
        f"{name} scales",
        _scales_kernel,
        {"amax_ptr": "*i32", "scale_ptr": "*u8" if block else "*fp32", "factor_ptr": "*fp32", "outer_ptr": "*fp32"}
        | {"N": "i32"},
        {**constants, "BLOCK": 1024},
    )
    yield CompileCase(
        f"{name} encode",
        _encode_kernel,
        {"x_ptr": "*fp32", "codes_ptr": "*u8", "factor_ptr": "*fp32", **sizes, "stride_cm": "i32"}
        | {"seed": "i64", "offset": "i64"},
        {"stride_xk": 1, "stride_ck": 1, "F": layout, "STOCHASTIC": spec.stochastic, **blocks},
    )
    if isinstance(spec.format, BlockFormat) and spec.format.two_level:
        yield CompileCase(
            f"{name} outer",
            _outer_kernel,
            {"amax_ptr": "*i32", "outer_ptr": "*fp32", "N": "i32"},
            {"MAX": spec.format.outer_divisor, "TINY": SMALLEST_OUTER_SCALE, "BLOCK": 1024},
        )


def compile_cases() -> Iterator[CompileCase]:
    """What training meets: the fused kernel, and the launches for whole tensors and two-level formats."""
    yield _fused_case("quantize e4m3fn/row bf16", "e4m3fn/row", 4096, 4096, "bf16")
    yield _fused_case("quantize e4m3fn/1x128 bf16", "e4m3fn/1x128", 4096, 4096, "bf16")
    yield _fused_case("quantize e4m3fn/128x128", "e4m3fn/128x128", 4096, 4096)
    yield _fused_case("quantize int8/32x32+sr", "int8/32x32+sr", 4096, 4096)
    yield _fused_case("quantize mxfp8 bf16", "mxfp8", 4096, 4096, "bf16")
    yield _fused_case("quantize rf8/row", "rf8/row", 4096, 4096)
    yield _fused_case("quantize rf8/1x128+sr", "rf8/1x128+sr", 4096, 4096)
    yield _fused_case("quantize e5m2/row fp64", "e5m2/row", 4096, 1024, "fp64")
    yield from _two_stage_cases("quantize e4m3fn", "e4m3fn", 4096, 4096)
    yield from _two_stage_cases("quantize nvfp4+sr", "nvfp4+sr", 4096, 4096)
