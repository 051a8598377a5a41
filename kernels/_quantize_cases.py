"""What ahead-of-time compilations of quantize stand for: the launches that training meets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels._quantize_plan import Plan, plan, scale_layout
from narrowgauge.kernels._quantize_triton import (
    amax_kernel,
    encode_kernel,
    encoding,
    fused_kernel,
    largest_kernel,
    rows_kernel,
    scales_kernel,
)
from narrowgauge.kernels.layout import layout_for, scale_dtype, table_constants, table_signature
from narrowgauge.kernels.op import CompileCase

SCALES = {torch.float32: "*fp32", torch.uint8: "*u8", torch.int16: "*i16"}
"""Triton's types of stored scales."""


def code_type(spec: Scheme) -> str:
    """Triton's type of a scheme's codes."""
    return "*i8" if layout_for(spec).code_dtype is torch.int8 else "*u8"


def encode_arguments(spec: Scheme, cols: int, block_k: int) -> tuple[dict[str, str], dict[str, Any]]:
    """(signature, constants) of what kernels take to encode: codes, table, random stream."""
    layout = layout_for(spec)
    signature = {"codes_ptr": code_type(spec), "seed": "i64", "offset": "i64"} | table_signature(layout)
    return signature, {**table_constants(layout), **encoding(spec, cols, block_k)}


def _block(cut: Plan) -> dict[str, Any]:
    return {"T": cut.tiling, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k}


def _cases(scheme: str, dtype: str = "bf16", rows: int = 4096, cols: int = 4096) -> Iterator[CompileCase]:
    """Every kernel that quantises a contiguous tensor of this shape."""
    spec = parse(scheme)
    cut = plan(rows, cols, spec)
    name = f"quantize {scheme} {dtype}" + (f" {rows}x{cols}" if cols != 4096 else "")
    source = {"x_ptr": f"*{dtype}", "M": "i32", "K": "i32", "stride_xm": "i32"}
    encode, constants = encode_arguments(spec, cols, cut.block_k)
    encode["stride_cm"] = "i32"
    inner = {"stride_xk": 1, "stride_ck": 1}
    scale = {"scale_ptr": SCALES[scale_dtype(spec)]}
    if cut.kind == "rows":
        arguments = {**constants, **inner, "S": scale_layout(spec), "T": cut.tiling, "BLOCK_K": cut.block_k}
        yield CompileCase(name, rows_kernel, source | encode | scale, arguments, num_warps=cut.num_warps)
        return
    if cut.kind == "fused":
        signature = source | encode | scale | {"outer_ptr": "*fp32", "TILES_K": "i32"}
        arguments = {**constants, **inner, **_block(cut), "S": scale_layout(spec)}
        if not spec.two_level:
            yield CompileCase(name, fused_kernel, signature, {**arguments, "largest_ptr": None}, cut.num_warps)
            return
        largest = {"largest_ptr": "*i32"}
        yield CompileCase(name, fused_kernel, signature | largest, arguments, cut.num_warps)
        arguments = {"stride_xk": 1, **_block(cut)}
        yield CompileCase(f"{name} largest", largest_kernel, source | largest, arguments, cut.num_warps)
        return
    source["TILES_K"] = "i32"
    arguments = {"stride_xk": 1, **_block(cut)}
    yield CompileCase(f"{name} amax", amax_kernel, source | {"amax_ptr": "*i32"}, arguments, cut.num_warps)
    arguments = {**constants, **inner, **_block(cut)}
    encode["factor_ptr"] = "*fp32"
    yield CompileCase(f"{name} encode", encode_kernel, source | encode, arguments, cut.num_warps)
    signature = {"amax_ptr": "*i32", "factor_ptr": "*fp32", "N": "i32", **scale}
    yield CompileCase(f"{name} scales", scales_kernel, signature, {"S": scale_layout(spec), "BLOCK": 1024})


def compile_cases() -> Iterator[CompileCase]:
    """What training meets: rows, blocks, columns and whole tensors of each input type, and every kind of encoder."""
    for dtype in ("fp32", "bf16", "fp16"):
        for scheme in ("e4m3fn/row", "e4m3fn/1x128", "mxfp8"):
            yield from _cases(scheme, dtype)
    for scheme in (
        "e4m3fn", "e4m3fn/128x128", "e4m3fn/col", "e5m2/row+sr", "e4m3fn/1x128+ftz", "mxfp4", "mxfp4+sr", "nvfp4",
        "nvfp4+sr", "nvfp4_2d", "int8", "int8/row", "rf8/row", "rf8/1x128+sr", "nf4/1x64", "dynamic8/1x128+sr",
    ):  # fmt: skip
        yield from _cases(scheme)
    for scheme in ("e4m3fn/128x128", "int8/32x32+sr", "dynamic8/row", "dynamic8+sr", "bfp8g32x32e10"):
        yield from _cases(scheme, "fp32")
    yield from _cases("e5m2/row", "fp64", cols=1024)
    yield from _cases("e4m3fn/row", cols=16384)
    yield from _cases("e4m3fn/row", cols=32768)
    yield from _cases("int8/row+sr", "fp32", cols=32768)
