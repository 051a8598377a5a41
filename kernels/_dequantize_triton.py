"""The Triton kernel of dequantize, and how kernels take quantised operands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels._factors_torch import check_quantized, factors_of
from narrowgauge.kernels._quantize_device import block_corner, load_decoded, offsets
from narrowgauge.kernels._quantize_plan import ceil_pow2, tiling
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import (
    blob_for,
    has_e8m0_scales,
    has_float_scales,
    layout_of,
    table_constants,
    table_signature,
)
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tiles import as_matrix, empty_codes, is_column_major

ELEMENTS = 4096
"""Elements of one program."""


class Source(NamedTuple):
    """A quantised matrix as kernels read it. scale: entries of the tiles, [down, across]."""

    codes: Tensor
    scale: Tensor
    outer: Tensor
    table: Tensor | None
    tile: Tile
    constants: dict[str, Any]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the codes, then of the scales."""
        return (*self.codes.stride(), *self.scale.stride())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.codes.shape[0], self.codes.shape[1]


def source_of(codes: Tensor, scale: Tensor, outer: Tensor, spec: Scheme, turned: bool = False) -> Source:
    """codes and scales of a scheme as one matrix; turned: as its transpose."""
    matrix, constants = as_matrix(codes), source_constants(spec)
    whole = factors_of(scale, outer, spec, matrix.shape[1]) if constants["SCALE"] == "fp32" else scale.flatten(0, -2)
    table, tile = blob_for(spec, codes.device), spec.factor_tile
    if turned:
        return Source(matrix.t(), whole.t(), outer, table, tile[::-1], constants)
    return Source(matrix, whole, outer, table, tile, constants)


def source_constants(spec: Scheme) -> dict[str, Any]:
    """Compile-time arguments. Scales that kernels do not decode come as factors."""
    fmt = spec.format
    how, scale_format = "fp32", None
    if isinstance(fmt, BlockFormat) and has_e8m0_scales(fmt):
        how = "e8m0"
    elif isinstance(fmt, BlockFormat) and has_float_scales(fmt):
        how, scale_format = "outer", layout_of(fmt.scale_format)
    return {"SOURCE_F": layout_of(spec.element), "SCALE": how, "SCALE_F": scale_format}


def block_of(rows: int, cols: int, column_major: bool) -> tuple[int, int]:
    """Rows and columns of a program's block, along the memory."""
    if column_major:
        return block_of(cols, rows, False)[::-1]
    block_k = min(ceil_pow2(cols), max(512, ELEMENTS // ceil_pow2(rows)))
    return min(ceil_pow2(rows), ELEMENTS // block_k), block_k


@jit
def dequantize_kernel(source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, out_ptr, M, K, stride_sm,
                      stride_sk, stride_tm, stride_tk, stride_om, stride_ok, SOURCE_F: tl.constexpr,
                      SCALE: tl.constexpr, SCALE_F: tl.constexpr, T: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK_K: tl.constexpr):  # fmt: skip
    """A block of decoded values, rounded to the output's type."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    value = load_decoded(
        source_ptr, source_scale_ptr, source_outer_ptr, source_table_ptr, first_m, first_k, M, K, stride_sm, stride_sk,
        stride_tm, stride_tk, SOURCE_F, SCALE, SCALE_F, T, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    offs_m, offs_k = offsets(first_m, first_k, BLOCK_M, BLOCK_K)
    out = out_ptr + offs_m * stride_om + offs_k * stride_ok
    tl.store(out, value.to(out_ptr.dtype.element_ty), mask=(offs_m < M) & (offs_k < K))


def dequantize_triton(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    """Launches the kernel; see kernels/dequantize.py for the contract."""
    spec = parse(scheme)
    check_quantized(codes, scale, outer, spec)
    # Triton's interpreter truncates where it should round to bfloat16 or float16.
    out = empty_codes(codes, dtype if codes.is_cuda and dtype in _NARROW else torch.float32)
    source, target = source_of(codes, scale, outer, spec), as_matrix(out)
    rows, cols = source.shape
    if rows and cols:
        block = block_of(rows, cols, is_column_major(target))
        dequantize_kernel[(triton.cdiv(rows, block[0]) * triton.cdiv(cols, block[1]),)](
            source.codes, source.scale, source.outer, source.table, target, rows, cols, *source.strides,
            *target.stride(), **source.constants, T=tiling(source.shape, source.tile, *block), BLOCK_M=block[0],
            BLOCK_K=block[1],
        )  # fmt: skip
    return out.to(dtype)


_NARROW = {torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def source_arguments(spec: Scheme) -> tuple[dict[str, str], dict[str, Any]]:
    """(signature, constants) of a contiguous quantised operand in ahead-of-time compilations."""
    layout, constants = layout_of(spec.element), source_constants(spec)
    name = "source_table_ptr"
    signature = {"source_ptr": "*i8" if layout.signed_codes else "*u8", "source_outer_ptr": "*fp32"}
    signature |= {"source_scale_ptr": "*fp32" if constants["SCALE"] == "fp32" else "*u8"}
    signature |= dict.fromkeys(("M", "K"), "i32") | table_signature(layout, name)
    return signature, {**table_constants(layout, name), **constants}


def compile_cases() -> Iterator[CompileCase]:
    """Every way of decoding elements and scales, and every output type."""
    shape = (4096, 4096)
    for scheme, dtype in (
        ("e4m3fn/1x128", "fp32"), ("e4m3fn/row", "bf16"), ("e4m3fn/1x128", "fp16"), ("e4m3fn", "bf16"),
        ("e5m2/col", "bf16"), ("e4m3fn/128x128", "bf16"), ("int8/row", "bf16"), ("rf8/row", "bf16"), ("mxfp8", "bf16"),
        ("mxfp4", "bf16"), ("nvfp4", "bf16"), ("dynamic8/row", "fp32"), ("nf4/1x64", "bf16"),
    ):  # fmt: skip
        spec = parse(scheme)
        signature, constants = source_arguments(spec)
        signature |= {"out_ptr": f"*{dtype}"} | dict.fromkeys(("stride_sm", "stride_om", "stride_tm"), "i32")
        block = block_of(*shape, False)
        constants |= {"stride_sk": 1, "stride_tk": 1, "stride_ok": 1, "T": tiling(shape, spec.factor_tile, *block)}
        constants |= {"BLOCK_M": block[0], "BLOCK_K": block[1]}
        yield CompileCase(f"dequantize {scheme} {dtype}", dequantize_kernel, signature, constants)
