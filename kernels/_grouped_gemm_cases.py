"""Ahead-of-time compilations of grouped_gemm, with the instruction that each target is to multiply with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels._grouped_gemm_plan import Config, candidates, seconds, work_of
from narrowgauge.kernels._grouped_gemm_triton import SIZES, arguments_of, grouped_kernel, keeps_codes
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.op import CompileCase

_FP16 = {
    "sm_80": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f16",
}
FP8 = {
    "sm_80": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "sm_89": "mma.sync.aligned.m16n8k",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.{a}.{b}",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f8f6f4",
    "sm_120": "mma.sync.aligned.m16n8k",
    "gfx942": "v_mfma_f32_",
    "gfx950": "v_mfma_f32_",
}
INT8 = {
    "sm_80": "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.s32.s8.s8",
    "sm_100": "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
    "gfx942": "v_mfma_i32_",
}
# a, b, whether b is a transposed view (as the backward product has it).
CASES: tuple[tuple[str, str, bool, dict[str, str]], ...] = (
    ("e4m3fn/row", "e4m3fn/row", False, FP8),
    ("e5m2/row", "e4m3fn/row", True, FP8),
    ("e4m3fn/1x128", "e4m3fn/128x128", False, FP8),
    ("mxfp8", "mxfp8", False, FP8),
    ("int8/row", "int8/row", False, INT8),
    ("rf8/row", "rf8/row", False, _FP16),
)
POINTERS = {
    torch.uint8: "*u8", torch.int8: "*i8", torch.int32: "*i32", torch.float32: "*fp32", torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv", torch.float8_e5m2: "*fp8e5", torch.float8_e4m3fnuz: "*fp8e4b8",
    torch.float8_e5m2fnuz: "*fp8e5b16",
}  # fmt: skip


def compile_cases() -> Iterator[CompileCase]:
    """What launches of 8 groups, 8192 rows in all, of 4096 x 4096 compile."""
    for a_scheme, b_scheme, turned, instructions in CASES:
        for target, instruction in instructions.items():
            yield _case(8, 8192, 4096, (parse(a_scheme), parse(b_scheme)), turned, target, instruction)


def scale_like(spec: Scheme, shape: tuple[int, int]) -> Tensor:
    """A scale of a matrix of `shape`, without data."""
    dtype = scale_dtype(spec) if keeps_codes(spec) else torch.float32
    return torch.empty(spec.scale_shape(shape), device="meta", dtype=dtype)


def case_of(
    name: str, kernel: Any, arguments: dict[str, Any], sizes: tuple[str, ...], config: Config, target: str, text: str
) -> CompileCase:
    """The compilation of a launch with these arguments."""
    signature = {name: POINTERS[value.dtype] for name, value in arguments.items() if isinstance(value, Tensor)}
    # A launch compiles for a stride of 1.
    signature |= {name: "i32" for name, value in arguments.items() if name in sizes and value != 1}
    return CompileCase(
        name=name,
        kernel=kernel,
        signature=signature,
        constants={name: value for name, value in arguments.items() if name not in signature},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        expect=((target, text),),
        targets=(target,),
    )


def instruction_text(instruction: str, config: Config, specs: tuple[Scheme, Scheme]) -> str:
    """The text to expect: wgmma names the width of the tile and the formats."""
    names = [spec.element.name.removesuffix("fn") for spec in specs]
    return instruction.format(n=config.block_n, a=names[0], b=names[1])


def _case(
    groups: int, rows: int, size: int, specs: tuple[Scheme, Scheme], b_turned: bool, target: str, instruction: str
) -> CompileCase:
    work = work_of(groups, rows, size, size, *specs, b_turned, target)
    config = min(candidates(work, target), key=lambda c: seconds(c, work, target))
    a = torch.empty((rows, size), device="meta", dtype=layout_of(specs[0].element).code_dtype)
    b = torch.empty((groups, size, size), device="meta", dtype=layout_of(specs[1].element).code_dtype)
    b_scale = torch.stack([scale_like(specs[1], (size, size))] * groups)
    out = torch.empty((rows, size), device="meta", dtype=torch.bfloat16)
    offsets = torch.empty((groups,), device="meta", dtype=torch.int32)
    arguments = arguments_of(a, scale_like(specs[0], (rows, size)), b.mT if b_turned else b, b_scale, offsets, out,
                             specs, work, config, target)  # fmt: skip
    text = instruction_text(instruction, config, specs)
    name = f"grouped_gemm {specs[0]} × {specs[1]}{' (b transposed)' if b_turned else ''}"
    return case_of(name, grouped_kernel, arguments, SIZES, config, target, text)
