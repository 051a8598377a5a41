"""Triton kernels of requantize: those of quantize, which decode what they work on instead of reading it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels import _cast
from narrowgauge.kernels._dequantize_triton import dequantize_triton, source_arguments, source_of
from narrowgauge.kernels._gemm_plan import target_of
from narrowgauge.kernels._quantize_cases import SCALES, encode_arguments
from narrowgauge.kernels._quantize_device import (
    block_corner,
    load_decoded,
    load_units,
    outer_scale,
    raise_largest,
    raise_maxima,
    save_codes,
    save_scales,
    scaled,
)
from narrowgauge.kernels._quantize_plan import Plan, plan, scale_layout, tiling, turned_plan
from narrowgauge.kernels._quantize_triton import empty_quantized, encoding, launch_scales, quantize_triton
from narrowgauge.kernels._register_room import register_room, with_room
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import blob_for, layout_for, scale_dtype
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tiles import as_matrix, is_column_major, tile_counts


@jit
def fused_requantize_kernel(source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, codes_ptr, scale_ptr,
                            outer_ptr, largest_ptr, table_ptr, M, K, TILES_K, stride_sm, stride_sk, stride_tm,
                            stride_tk, stride_cm, stride_ck, seed, offset, SOURCE_F: tl.constexpr, SCALE: tl.constexpr,
                            SCALE_F: tl.constexpr, SOURCE_T: tl.constexpr, F: tl.constexpr, STOCHASTIC: tl.constexpr,
                            FOURS: tl.constexpr, S: tl.constexpr, T: tl.constexpr, BLOCK_M: tl.constexpr,
                            BLOCK_K: tl.constexpr):  # fmt: skip
    """A block of whole tiles: read, decode, reduce, scale, encode, write."""
    outer = outer_scale(largest_ptr, outer_ptr, S)
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load_decoded(
        source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, first_m, first_k, M, K, stride_sm, stride_sk,
        stride_tm, stride_tk, SOURCE_F, SCALE, SCALE_F, SOURCE_T, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    inverse = save_scales(x, scale_ptr, outer, first_m, first_k, M, K, TILES_K, 1, S, T, BLOCK_M, BLOCK_K)
    save_codes(
        scaled(x, inverse, T, BLOCK_M, BLOCK_K), codes_ptr, table_ptr, first_m, first_k, M, K, stride_cm, stride_ck,
        seed, offset, F, STOCHASTIC, FOURS, BLOCK_M, BLOCK_K,
    )  # fmt: skip


@jit
def amax_requantize_kernel(source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, amax_ptr, M, K, TILES_K,
                           stride_sm, stride_sk, stride_tm, stride_tk, SOURCE_F: tl.constexpr, SCALE: tl.constexpr,
                           SCALE_F: tl.constexpr, SOURCE_T: tl.constexpr, T: tl.constexpr, LARGEST: tl.constexpr,
                           BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Bits of the largest magnitude of each tile, or (LARGEST) of all the tiles that are finite."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load_decoded(
        source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, first_m, first_k, M, K, stride_sm, stride_sk,
        stride_tm, stride_tk, SOURCE_F, SCALE, SCALE_F, SOURCE_T, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    if LARGEST:
        raise_largest(x, amax_ptr, T, BLOCK_M, BLOCK_K)
    else:
        raise_maxima(x, amax_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)


@jit
def encode_requantize_kernel(source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, codes_ptr, factor_ptr,
                             table_ptr, M, K, TILES_K, stride_sm, stride_sk, stride_tm, stride_tk, stride_cm, stride_ck,
                             seed, offset, SOURCE_F: tl.constexpr, SCALE: tl.constexpr, SCALE_F: tl.constexpr,
                             SOURCE_T: tl.constexpr, F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr,
                             T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Codes of the decoded values under the tiles' float32 factors."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load_decoded(
        source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, first_m, first_k, M, K, stride_sm, stride_sk,
        stride_tm, stride_tk, SOURCE_F, SCALE, SCALE_F, SOURCE_T, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    factor = load_units(factor_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)
    save_codes(
        scaled(x, _cast.inverse_scale(factor), T, BLOCK_M, BLOCK_K), codes_ptr, table_ptr, first_m, first_k, M, K,
        stride_cm, stride_ck, seed, offset, F, STOCHASTIC, FOURS, BLOCK_M, BLOCK_K,
    )  # fmt: skip


def _plan(rows: int, cols: int, spec: Scheme, turned: bool, column_major: bool) -> Plan:
    """The cut of the result; a row that no program holds is staged here."""
    cut = turned_plan(rows, cols, spec) if turned else plan(rows, cols, spec, column_major)
    return replace(cut, kind="staged") if cut.kind == "rows" else cut


def requantize_triton(
    codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, target: str, turned: bool, seed: int, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the kernels; see kernels/requantize.py for the contract."""
    spec, goal = parse(scheme), parse(target)
    if goal.rule.searches:
        values = dequantize_triton(codes, scale, outer, scheme, torch.float32)
        return quantize_triton(as_matrix(values).t().contiguous() if turned else values, target, seed, offset)
    source = source_of(codes, scale, outer, spec, turned)
    rows, cols = source.shape
    results = empty_quantized(codes.new_empty((rows, cols)) if turned else codes, goal)
    new_codes, new_scale, new_outer = results
    matrix = as_matrix(new_codes)
    cut = _plan(rows, cols, goal, turned, is_column_major(matrix))
    grid = (triton.cdiv(rows, cut.block_m) * triton.cdiv(cols, cut.block_k),)
    down, across = tile_counts((rows, cols), goal.factor_tile)
    read = (source.codes, source.scale, source.outer, source.table)
    blocks: dict[str, Any] = {
        **source.constants, "SOURCE_T": tiling(source.shape, source.tile, cut.block_m, cut.block_k), "T": cut.tiling,
        "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k, "num_warps": cut.num_warps,
    }  # fmt: skip
    table, constants = blob_for(goal, codes.device), encoding(goal, cols, cut.block_k)
    sizes = (rows, cols, across, *source.strides)
    if cut.kind == "fused" and rows and cols:
        largest = None
        if goal.two_level:
            largest = torch.zeros((), dtype=torch.int32, device=codes.device)
            amax_requantize_kernel[grid](*read, largest, *sizes, **blocks, LARGEST=True)
        fused_requantize_kernel[grid](
            *read, matrix, new_scale, new_outer, largest, table, *sizes, *matrix.stride(), seed, offset, **constants,
            **blocks, S=scale_layout(goal),
        )  # fmt: skip
        return results
    amax = torch.zeros((down, across), dtype=torch.int32, device=codes.device)
    if rows and cols:
        amax_requantize_kernel[grid](*read, amax, *sizes, **blocks, LARGEST=False)
    factors = launch_scales(source.codes, amax, new_scale, new_outer, goal)
    if rows and cols:
        encode_requantize_kernel[grid](
            *read, matrix, factors, table, *sizes, *matrix.stride(), seed, offset, **constants, **blocks,
            **register_room(target_of(codes.device)),
        )  # fmt: skip
    return results


def _cases(scheme: str, target: str, turned: bool) -> Iterator[CompileCase]:
    spec, goal, shape = parse(scheme), parse(target), (4096, 4096)
    cut = _plan(*shape, goal, turned, False)
    signature, constants = source_arguments(spec)
    encode, more = encode_arguments(goal, shape[1], cut.block_k)
    inner, outer_axis = ("m", "k") if turned else ("k", "m")
    tile = spec.factor_tile[::-1] if turned else spec.factor_tile
    signature |= dict.fromkeys(("TILES_K", f"stride_s{outer_axis}", f"stride_t{outer_axis}"), "i32")
    constants |= {
        f"stride_s{inner}": 1, f"stride_t{inner}": 1, "SOURCE_T": tiling(shape, tile, cut.block_m, cut.block_k),
        "T": cut.tiling, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k,
    }  # fmt: skip
    name = f"requantize {scheme} to {target}{' turned' if turned else ''}"
    encode["stride_cm"] = "i32"
    writes = {**constants, **more, "stride_ck": 1}
    warps = cut.num_warps
    if cut.kind == "fused":
        fused = signature | encode | {"scale_ptr": SCALES[scale_dtype(goal)], "outer_ptr": "*fp32"}
        largest: dict[str, Any] = {} if goal.two_level else {"largest_ptr": None}
        fused |= {"largest_ptr": "*i32"} if goal.two_level else {}
        arguments = {**writes, **largest, "S": scale_layout(goal)}
        # Twice the warps, for random draws beside a table, leave each of CDNA's threads half as much to read.
        width = 8 if goal.stochastic and layout_for(goal).kind == "table" else 16
        yield CompileCase(name, fused_requantize_kernel, fused, arguments, warps, load_bytes=width)
        if not goal.two_level:
            return
    amax = signature | {"amax_ptr": "*i32"}
    arguments = {**constants, "LARGEST": cut.kind == "fused"}
    yield CompileCase(f"{name} amax", amax_requantize_kernel, amax, arguments, warps)
    if cut.kind == "staged":
        staged = signature | encode | {"factor_ptr": "*fp32"}
        yield from with_room(CompileCase(f"{name} encode", encode_requantize_kernel, staged, writes, warps))


def compile_cases() -> Iterator[CompileCase]:
    """The backward's operands from the forward's codes, and changes of format."""
    for scheme, target in (
        ("e4m3fn/1x128", "e4m3fn/1x128"), ("e4m3fn/row", "e4m3fn/row"), ("mxfp8", "mxfp8"), ("nvfp4", "nvfp4+sr"),
        ("e4m3fn/128x128", "e5m2/128x128+sr"), ("mxfp4", "mxfp4"),
    ):  # fmt: skip
        yield from _cases(scheme, target, turned=True)
    for scheme, target in (
        ("e4m3fn/row", "mxfp8"), ("mxfp8", "e4m3fn/128x128"), ("nf4/1x64", "int8/row"), ("int8/row", "rf8"),
        ("dynamic8/1x128", "dynamic8/1x128+sr"),
    ):  # fmt: skip
        yield from _cases(scheme, target, turned=False)
