"""What ahead-of-time compilations of quantize stand for: the launches that training meets."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from narrowgauge.formats import BlockFormat, parse
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE
from narrowgauge.kernels._quantize_plan import plan, scale_layout
from narrowgauge.kernels._quantize_triton import amax_kernel, encode_kernel, fused_kernel, outer_kernel, scales_kernel
from narrowgauge.kernels.layout import layout_for, scale_dtype, table_constants, table_signature
from narrowgauge.kernels.op import CompileCase

_SCALES = {torch.float32: "*fp32", torch.uint8: "*u8", torch.int16: "*i16"}


def _fused_case(name: str, scheme: str, rows: int, cols: int, dtype: str = "fp32") -> CompileCase:
    spec = parse(scheme)
    layout = layout_for(spec)
    cut = plan(rows, cols, spec)
    scale = _SCALES[scale_dtype(spec)]
    code = "*i8" if layout.code_dtype is torch.int8 else "*u8"
    signature = {"x_ptr": f"*{dtype}", "codes_ptr": code, "scale_ptr": scale, "outer_ptr": "*fp32"}
    signature |= dict.fromkeys(("M", "K", "TILES_K", "stride_xm", "stride_cm"), "i32")
    signature |= {"seed": "i64", "offset": "i64"} | table_signature(layout)
    constants = {
        **table_constants(layout), "stride_xk": 1, "stride_ck": 1, "F": layout, "STOCHASTIC": spec.stochastic,
        "S": scale_layout(spec), "TILE_M": cut.tile_m, "TILE_K": cut.tile_k, "BLOCK_M": cut.block_m,
        "BLOCK_K": cut.block_k,
    }  # fmt: skip
    return CompileCase(name, fused_kernel, signature, constants, num_warps=cut.num_warps)


def _two_stage_cases(name: str, scheme: str, rows: int, cols: int) -> Iterator[CompileCase]:
    """The kernels of a tensor whose tiles no program holds."""
    spec = parse(scheme)
    layout = layout_for(spec)
    cut = plan(rows, cols, spec)
    blocks = {"BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k}
    sizes = dict.fromkeys(("M", "K", "TILE_M", "TILE_K", "TILES_K", "stride_xm"), "i32")
    yield CompileCase(
        f"{name} amax", amax_kernel, {"x_ptr": "*fp32", "amax_ptr": "*i32", **sizes}, {"stride_xk": 1, **blocks}
    )
    yield CompileCase(
        f"{name} scales",
        scales_kernel,
        {"amax_ptr": "*i32", "scale_ptr": _SCALES[scale_dtype(spec)], "factor_ptr": "*fp32", "outer_ptr": "*fp32"}
        | {"N": "i32"},
        {"S": scale_layout(spec), "BLOCK": 1024},
    )
    yield CompileCase(
        f"{name} encode",
        encode_kernel,
        {"x_ptr": "*fp32", "codes_ptr": "*u8", "factor_ptr": "*fp32", **sizes, "stride_cm": "i32"}
        | {"seed": "i64", "offset": "i64"}
        | table_signature(layout),
        {
            **table_constants(layout),
            "stride_xk": 1,
            "stride_ck": 1,
            "F": layout,
            "STOCHASTIC": spec.stochastic,
            **blocks,
        },
        num_warps=cut.num_warps,
    )
    if isinstance(spec.format, BlockFormat) and spec.format.two_level:
        yield CompileCase(
            f"{name} outer",
            outer_kernel,
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
    yield _fused_case("quantize nf4/1x64 bf16", "nf4/1x64", 4096, 4096, "bf16")
    yield _fused_case("quantize dynamic8/row", "dynamic8/row", 4096, 4096)
    yield _fused_case("quantize dynamic8/1x128+sr", "dynamic8/1x128+sr", 4096, 4096)
    yield _fused_case("quantize e5m2/row fp64", "e5m2/row", 4096, 1024, "fp64")
    yield _fused_case("quantize hbfp8 24x24", "bfp8g32x32e10", 4096, 4096)
    yield _fused_case("quantize e4m3fn/1x128+ftz bf16", "e4m3fn/1x128+ftz", 4096, 4096, "bf16")
    yield from _two_stage_cases("quantize e4m3fn", "e4m3fn", 4096, 4096)
    yield from _two_stage_cases("quantize dynamic8+sr", "dynamic8+sr", 4096, 4096)
    yield from _two_stage_cases("quantize nvfp4+sr", "nvfp4+sr", 4096, 4096)
