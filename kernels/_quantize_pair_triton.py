"""Triton kernels of quantize_pair: a block of x is read once and encoded for x and for its transpose.

Where one program holds whole tiles of both schemes, one launch does everything; two-level formats take one before it
for the tensor's scales. Else x is read twice: for the maxima of both, then for the codes of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels import _cast
from narrowgauge.kernels._quantize_cases import SCALES, encode_arguments
from narrowgauge.kernels._quantize_device import (
    block_corner,
    load,
    load_units,
    outer_scale,
    raise_largest,
    raise_maxima,
    save_codes,
    save_scales,
    save_turned_codes,
    scaled,
)
from narrowgauge.kernels._quantize_plan import pair_plan, scale_layout
from narrowgauge.kernels._quantize_torch import check_input
from narrowgauge.kernels._quantize_triton import empty_quantized, encoding, launch_scales, quantize_triton
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import blob_for, scale_dtype
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tiles import as_matrix, tile_counts

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@jit
def fused_pair_kernel(x_ptr, codes_ptr, scale_ptr, outer_ptr, table_ptr, turned_codes_ptr, turned_scale_ptr,
                      turned_outer_ptr, turned_table_ptr, largest_ptr, turned_largest_ptr, M, K, TILES_K,
                      TURNED_TILES, stride_xm, stride_xk, stride_cm, stride_ck, seed, offset, turned_offset,
                      F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
                      TURNED_F: tl.constexpr, TURNED_STOCHASTIC: tl.constexpr, TURNED_FOURS: tl.constexpr,
                      TURNED_S: tl.constexpr, TURNED_T: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK_K: tl.constexpr):  # fmt: skip
    """A block of whole tiles of both schemes."""
    outer = outer_scale(largest_ptr, outer_ptr, S)
    turned_outer = outer_scale(turned_largest_ptr, turned_outer_ptr, TURNED_S)
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    inverse = save_scales(x, scale_ptr, outer, first_m, first_k, M, K, TILES_K, 1, S, T, BLOCK_M, BLOCK_K)
    save_codes(
        scaled(x, inverse, T, BLOCK_M, BLOCK_K), codes_ptr, table_ptr, first_m, first_k, M, K, stride_cm, stride_ck,
        seed, offset, F, STOCHASTIC, FOURS, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    inverse = save_scales(
        x, turned_scale_ptr, turned_outer, first_m, first_k, M, K, 1, TURNED_TILES, TURNED_S, TURNED_T, BLOCK_M, BLOCK_K
    )
    save_turned_codes(
        scaled(x, inverse, TURNED_T, BLOCK_M, BLOCK_K), turned_codes_ptr, turned_table_ptr, first_m, first_k, M, K,
        seed, turned_offset, TURNED_F, TURNED_STOCHASTIC, TURNED_FOURS, BLOCK_M, BLOCK_K,
    )  # fmt: skip


@jit
def pair_maxima_kernel(x_ptr, amax_ptr, turned_amax_ptr, M, K, TILES_K, TURNED_TILES, stride_xm, stride_xk,
                       T: tl.constexpr, TURNED_T: tl.constexpr, LARGEST: tl.constexpr, BLOCK_M: tl.constexpr,
                       BLOCK_K: tl.constexpr):  # fmt: skip
    """Bits of the largest magnitude of each tile of both, or (LARGEST) of all tiles that are finite, a word each."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    if LARGEST:
        raise_largest(x, amax_ptr, T, BLOCK_M, BLOCK_K)
        raise_largest(x, turned_amax_ptr, TURNED_T, BLOCK_M, BLOCK_K)
    else:
        raise_maxima(x, amax_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)
        raise_maxima(x, turned_amax_ptr, first_m, first_k, M, K, 1, TURNED_TILES, TURNED_T, BLOCK_M, BLOCK_K)


@jit
def encode_pair_kernel(x_ptr, codes_ptr, factor_ptr, table_ptr, turned_codes_ptr, turned_factor_ptr, turned_table_ptr,
                       M, K, TILES_K, TURNED_TILES, stride_xm, stride_xk, stride_cm, stride_ck, seed, offset,
                       turned_offset, F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr, T: tl.constexpr,
                       TURNED_F: tl.constexpr, TURNED_STOCHASTIC: tl.constexpr, TURNED_FOURS: tl.constexpr,
                       TURNED_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Codes of both under the tiles' float32 factors."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    x = load(x_ptr, first_m, first_k, M, K, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    factor = load_units(factor_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)
    save_codes(
        scaled(x, _cast.inverse_scale(factor), T, BLOCK_M, BLOCK_K), codes_ptr, table_ptr, first_m, first_k, M, K,
        stride_cm, stride_ck, seed, offset, F, STOCHASTIC, FOURS, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    factor = load_units(turned_factor_ptr, first_m, first_k, M, K, 1, TURNED_TILES, TURNED_T, BLOCK_M, BLOCK_K)
    save_turned_codes(
        scaled(x, _cast.inverse_scale(factor), TURNED_T, BLOCK_M, BLOCK_K), turned_codes_ptr, turned_table_ptr, first_m,
        first_k, M, K, seed, turned_offset, TURNED_F, TURNED_STOCHASTIC, TURNED_FOURS, BLOCK_M, BLOCK_K,
    )  # fmt: skip


def quantize_pair_triton(x: Tensor, scheme: str, turned_scheme: str, seed: int, offset: int, turned_offset: int) -> Six:
    """Launches the kernels; see kernels/quantize_pair.py for the contract."""
    check_input(x)
    spec, other = parse(scheme), parse(turned_scheme)
    matrix = as_matrix(x)
    rows, cols = matrix.shape
    if spec.rule.searches or other.rule.searches or not matrix.numel():
        single = quantize_triton(x, scheme, seed, offset)
        codes, scale, outer = quantize_triton(matrix.t(), turned_scheme, seed, turned_offset)
        return (*single, codes.contiguous(), scale, outer)
    codes, scale, outer = empty_quantized(x, spec)
    turned_codes, turned_scale, turned_outer = empty_quantized(x.new_empty((cols, rows)), other)
    cut = pair_plan(rows, cols, spec, other)
    grid = (triton.cdiv(rows, cut.block_m) * triton.cdiv(cols, cut.block_k),)
    target = as_matrix(codes)
    counts, turned_counts = tile_counts((rows, cols), spec.factor_tile), tile_counts((cols, rows), other.factor_tile)
    sizes = (rows, cols, counts[1], turned_counts[1], *matrix.stride())
    blocks: dict[str, Any] = {
        "T": cut.tiling, "TURNED_T": cut.turned, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k,
        "num_warps": cut.num_warps,
    }  # fmt: skip
    tables = blob_for(spec, x.device), blob_for(other, x.device)
    constants = {**encoding(spec, cols, cut.block_k), **_turned(encoding(other, rows, cut.block_m))}
    rest = (*sizes, *target.stride(), seed, offset, turned_offset)
    if cut.kind == "fused":
        largest = None
        if spec.two_level or other.two_level:
            largest = torch.zeros(2, dtype=torch.int32, device=x.device)
            pair_maxima_kernel[grid](matrix, largest, largest[1:], *sizes, **blocks, LARGEST=True)
        fused_pair_kernel[grid](
            matrix, target, scale, outer, tables[0], turned_codes, turned_scale, turned_outer, tables[1], largest,
            largest if largest is None else largest[1:], *rest, **constants, **blocks, S=scale_layout(spec),
            TURNED_S=scale_layout(other),
        )  # fmt: skip
        return codes, scale, outer, turned_codes, turned_scale, turned_outer
    amax = torch.zeros(counts, dtype=torch.int32, device=x.device)
    turned_amax = torch.zeros(turned_counts, dtype=torch.int32, device=x.device)
    pair_maxima_kernel[grid](matrix, amax, turned_amax, *sizes, **blocks, LARGEST=False)
    factors = launch_scales(matrix, amax, scale, outer, spec)
    turned_factors = launch_scales(matrix, turned_amax, turned_scale, turned_outer, other)
    encode_pair_kernel[grid](
        matrix, target, factors, tables[0], turned_codes, turned_factors, tables[1], *rest, **constants, **blocks
    )
    return codes, scale, outer, turned_codes, turned_scale, turned_outer


def _turned(arguments: dict[str, Any]) -> dict[str, Any]:
    return {f"TURNED_{name}": value for name, value in arguments.items()}


def _cases(scheme: str, turned_scheme: str, dtype: str = "bf16") -> Iterator[CompileCase]:
    spec, other, shape = parse(scheme), parse(turned_scheme), (4096, 4096)
    cut = pair_plan(*shape, spec, other)
    names = ("M", "K", "TILES_K", "TURNED_TILES", "stride_xm")
    signature = {"x_ptr": f"*{dtype}"} | dict.fromkeys(names, "i32")
    constants = {"stride_xk": 1, "T": cut.tiling, "TURNED_T": cut.turned}
    constants |= {"BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k}
    encode, more = encode_arguments(spec, shape[1], cut.block_k)
    turned, turned_more = encode_arguments(other, shape[0], cut.block_m)
    pointers = {f"turned_{name}": kind for name, kind in turned.items() if name.endswith("_ptr")}
    writes = signature | encode | pointers | {"stride_cm": "i32", "turned_offset": "i64"}
    renamed = {("turned_" if name.islower() else "TURNED_") + name: value for name, value in turned_more.items()}
    arguments = {**constants, **more, **renamed, "stride_ck": 1}
    two_level = spec.two_level or other.two_level
    name = f"quantize_pair {scheme} and {turned_scheme} {dtype}"
    if cut.kind == "fused":
        writes |= {"scale_ptr": SCALES[scale_dtype(spec)], "turned_scale_ptr": SCALES[scale_dtype(other)]}
        writes |= {"outer_ptr": "*fp32", "turned_outer_ptr": "*fp32"}
        largest = ("largest_ptr", "turned_largest_ptr")
        writes |= dict.fromkeys(largest, "*i32") if two_level else {}
        arguments |= {} if two_level else dict.fromkeys(largest)
        arguments |= {"S": scale_layout(spec), "TURNED_S": scale_layout(other)}
        yield CompileCase(name, fused_pair_kernel, writes, arguments, cut.num_warps)
    else:
        writes |= {"factor_ptr": "*fp32", "turned_factor_ptr": "*fp32"}
        yield CompileCase(f"{name} encode", encode_pair_kernel, writes, arguments, cut.num_warps)
    if two_level or cut.kind == "staged":
        amax = signature | {"amax_ptr": "*i32", "turned_amax_ptr": "*i32"}
        constants["LARGEST"] = cut.kind == "fused"
        yield CompileCase(f"{name} maxima", pair_maxima_kernel, amax, constants, cut.num_warps)


def compile_cases() -> Iterator[CompileCase]:
    """The operands of a linear layer's three products, forward and backward."""
    for dtype in ("fp32", "bf16", "fp16"):
        yield from _cases("e4m3fn/1x128", "e4m3fn/1x128", dtype)
    for pair in (
        ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/128x128", "e4m3fn/128x128"), ("e4m3fn/1x128", "e4m3fn/128x128"),
        ("e4m3fn", "e4m3fn"), ("e5m2/row+sr", "e5m2/row+sr"), ("mxfp8", "mxfp8"), ("mxfp4+sr", "mxfp4+sr"),
        ("nvfp4", "nvfp4+sr"), ("nvfp4_2d", "nvfp4_2d"), ("int8/row", "int8/row"), ("rf8/row", "rf8/row"),
        ("nf4/1x64", "nf4/1x64"),
    ):  # fmt: skip
        yield from _cases(*pair)
