"""Ahead-of-time compilations of block_scaled_gemm, with the instruction that each target is to multiply with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels._block_gemm_plan import block_of, candidates, path_of, seconds
from narrowgauge.kernels._block_gemm_triton import (
    SIZES,
    arguments_of,
    block_gemm_kernel,
    expand_kernel,
    recode_kernel,
    scale_layout,
)
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.op import CompileCase

# The instruction that multiplies, per target. wgmma's {n} is the tile's width.
_DECODED = {
    "sm_80": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "sm_89": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16",
    "gfx942": "v_mfma_f32_32x32x8_bf16",
}
_F8F6F4 = {
    "sm_100": "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale.scale_vec::1X",
    "sm_120": "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X",
    "gfx950": "v_mfma_scale_f32_",
}
_MXF4 = {
    "sm_100": "tcgen05.mma.cta_group::1.kind::mxf4.block_scale.scale_vec::2X",
    "sm_120": "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0",
    "gfx950": "v_mfma_scale_f32_",
}
_NVF4 = {
    "sm_100": "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.scale_vec::4X",
    "sm_120": "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3",
    "gfx950": "v_mfma_f32_32x32x16_bf16",
}
# a, b, whether scales are tiled, whether there is a bias.
_CASES: tuple[tuple[str, str, bool, bool, dict[str, str]], ...] = (
    ("mxfp8", "mxfp8", False, True, _DECODED | _F8F6F4),
    ("mxfp8", "mxfp8", True, False, _DECODED | _F8F6F4),
    ("mxfp8_e5m2", "mxfp8", True, False, _DECODED | _F8F6F4),
    ("mxfp8", "mxfp4", True, False, _DECODED | _F8F6F4),
    ("mxfp6", "mxfp6_e3m2", True, False, _DECODED | _F8F6F4),
    ("mxfp4", "mxfp4", False, False, _DECODED | _MXF4),
    ("mxfp4", "mxfp4", True, False, _DECODED | _MXF4),
    ("nvfp4", "nvfp4", False, False, _DECODED | _NVF4),
    ("nvfp4", "nvfp4", True, True, _DECODED | _NVF4),
)


def compile_cases() -> Iterator[CompileCase]:
    """What launches of 4096 and of 32 rows with 4096 x 4096 weights compile, and the kernels that prepare codes."""
    for a_scheme, b_scheme, tiled, bias, instructions in _CASES:
        for target, instruction in instructions.items():
            for rows in (4096, 32):
                yield _case(rows, 4096, parse(a_scheme), parse(b_scheme), tiled, bias, target, instruction)
    for packed, pack in ((False, True), (True, False), (False, False)):
        pointers = {"codes_ptr": "*u8", "out_ptr": "*u8"} | ({} if pack else {"table_ptr": "*u8"})
        sizes = dict.fromkeys(("rows", "in_cols", "out_cols", "stride_r"), "i32")
        constants: dict[str, Any] = {"stride_c": 1, "PACKED": packed, "PACK": pack, "BLOCK_R": 16, "BLOCK_C": 512}
        constants |= {"table_ptr": None} if pack else {}
        name = f"block_scaled_gemm {'packed' if packed else 'single'} codes {'packed' if pack else 'as e4m3fn'}"
        yield CompileCase(name, recode_kernel, pointers | sizes, constants)
    for scheme, tiled in (("mxfp8", False), ("mxfp4", True), ("nvfp4", False), ("nvfp4", True)):
        yield _expand_case(parse(scheme), tiled)


def _expand_case(spec: Scheme, tiled: bool) -> CompileCase:
    packed = spec.element.bits == 4
    signature = {"codes_ptr": "*u8", "scale_ptr": "*u8", "out_ptr": "*bf16"}
    signature |= dict.fromkeys(("rows", "in_cols", "cols", "scale_cols", "stride_r"), "i32")
    signature |= {} if tiled else {"stride_sr": "i32"}
    constants = {
        "stride_c": 1, "stride_sc": 1, "F": layout_of(spec.element), "S_F": scale_layout(spec), "PACKED": packed,
        "TILED": tiled, "BLOCK": block_of(spec), "BLOCK_R": 16, "BLOCK_C": 512,
    }  # fmt: skip
    constants |= {"stride_sr": 0} if tiled else {}
    name = f"block_scaled_gemm {spec} expanded{' (128x4)' if tiled else ''}"
    return CompileCase(name, expand_kernel, signature, constants)


def _case(m: int, n: int, a: Scheme, b: Scheme, tiled: bool, bias: bool, target: str, instruction: str) -> CompileCase:
    path, k = path_of(a, b, target), n
    config = min(candidates(path, target), key=lambda c: seconds(c, m, n, k, path, target))
    plain = config.how == "expanded"

    packed = path.a == "e2m1" and not plain, path.b == "e2m1" and not plain

    def operand(rows: int, spec: Scheme, packed: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype = torch.bfloat16 if plain else torch.uint8
        codes = torch.empty((rows, k // 2 if packed else k), device="meta", dtype=dtype)
        blocks = k // block_of(spec)
        scale = torch.empty((rows * blocks,) if tiled else (rows, blocks), device="meta", dtype=torch.uint8)
        return codes, scale, torch.empty((), device="meta") if spec.two_level else None

    out = torch.empty((m, n), device="meta", dtype=torch.bfloat16)
    arguments = arguments_of(*operand(m, a, packed[0]), *operand(n, b, packed[1]), out, out[0] if bias else None,
                             (a, b), packed, k, path, config, target)  # fmt: skip
    names = {torch.uint8: "*u8", torch.float32: "*fp32", torch.bfloat16: "*bf16"}
    signature: dict[str, str] = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            signature[name] = names[value.dtype]
        elif name in SIZES and value not in (0, 1):  # a launch compiles for a stride of 1
            signature[name] = "i32"
    return CompileCase(
        name=f"block_scaled_gemm {a} × {b} {m}{' (128x4)' if tiled else ''}",
        kernel=block_gemm_kernel,
        signature=signature,
        constants={name: value for name, value in arguments.items() if name not in signature},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        expect=((target, instruction.format(n=config.block_n)),),
        targets=(target,),
    )
