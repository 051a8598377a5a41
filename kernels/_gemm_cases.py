"""Ahead-of-time compilations of scaled_gemm: what launches compile on each target, with the instruction they must have.

What the model chooses for products of 4096 x 4096 x 4096, in the three layouts of a linear layer, and for a decoding
step of 16 rows, whose contraction is split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels._gemm_config import Config
from narrowgauge.kernels._gemm_kernel import gemm_kernel, sum_kernel
from narrowgauge.kernels._gemm_model import seconds
from narrowgauge.kernels._gemm_plan import scale_columns
from narrowgauge.kernels._gemm_requantise import Codes
from narrowgauge.kernels._gemm_triton import (
    SIZES,
    Call,
    arguments,
    class_of,
    is_turned,
    keeps_codes,
    launches,
    sum_arguments,
    workspace,
)
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tiles import tile_counts

# torch dtype → Triton's name of it, for ahead-of-time signatures.
_TYPES = {
    torch.uint8: "u8", torch.int8: "i8", torch.int32: "i32", torch.float32: "fp32", torch.float16: "fp16",
    torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8e4nv", torch.float8_e5m2: "fp8e5",
    torch.float8_e4m3fnuz: "fp8e4b8", torch.float8_e5m2fnuz: "fp8e5b16",
}  # fmt: skip
# The instruction that multiplies, per target; {n} is the tile's width. Every fp8 pair is one `kind` on sm_100.
_MMA = "mma.sync.aligned.m16n8k"
_FP16 = {
    "sm_80": f"{_MMA}16.row.col.f32.f16.f16.f32",
    "sm_89": f"{_MMA}16.row.col.f32.f16.f16.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f16",
    "sm_120": f"{_MMA}16.row.col.f32.f16.f16.f32",
    "gfx942": "v_mfma_f32_32x32x8_f16",
    "gfx950": "v_mfma_f32_32x32x16_f16",
}
_FP8 = _FP16 | {
    "sm_89": f"{_MMA}32.row.col.f32.e4m3.e4m3.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.e4m3.e4m3",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f8f6f4",
    "sm_120": f"{_MMA}32.row.col.f32.e4m3.e4m3.f32",
    "gfx950": "v_mfma_f32_32x32x64_f8f6f4",
}
_GRADIENT = _FP8 | {
    "sm_89": f"{_MMA}32.row.col.f32.e5m2.e4m3.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.e5m2.e4m3",
    "sm_120": f"{_MMA}32.row.col.f32.e5m2.e4m3.f32",
}
_INT8 = {
    "sm_80": f"{_MMA}32.row.col.satfinite.s32.s8.s8.s32",
    "sm_89": f"{_MMA}32.row.col.satfinite.s32.s8.s8.s32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.s32.s8.s8",
    "sm_100": f"{_MMA}32.row.col.satfinite.s32.s8.s8.s32",
    "sm_120": f"{_MMA}32.row.col.satfinite.s32.s8.s8.s32",
    "gfx942": "v_mfma_i32_32x32x16_i8",
    "gfx950": "v_mfma_i32_32x32x32_i8",
}
_FP32 = {
    "sm_80": f"{_MMA}16.row.col.f32.bf16.bf16.f32",
    "sm_89": f"{_MMA}16.row.col.f32.bf16.bf16.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f16",
    "sm_120": f"{_MMA}16.row.col.f32.bf16.bf16.f32",
    "gfx942": "v_mfma_f32_32x32x2_f32",
    "gfx950": "v_mfma_f32_32x32x2_f32",
}
_INTEGERS = (*SIZES, "stride_qm", "seed", "offset")
_SIZE = 4096
_MX = _FP8 | {"gfx950": "v_mfma_f32_32x32x16_fp8_fp8"}
# gfx950 is left out: its compiler keeps masks of RF8's decoding in lanes of vector registers, which count as spills.
_RF8 = {target: text for target, text in _FP16.items() if target != "gfx950"}
_COPIES = "cp.async.bulk.tensor.2d"
"""What a tensor memory accelerator is told."""
# a, b, the operands that are transposed views (as the backward products have them), whether there is a bias.
_CASES: tuple[tuple[str, str, str, bool, dict[str, str]], ...] = (
    ("e4m3fn", "e4m3fn", "", True, _FP8),
    ("e4m3fn/row", "e4m3fn/row", "", False, _FP8),
    ("e4m3fn/1x128", "e4m3fn/128x128", "", False, _FP8),
    ("e4m3fn/1x128", "e4m3fn/1x128", "ab", False, _FP8),
    ("e5m2/row", "e4m3fn/row", "b", False, _GRADIENT),
    ("e5m2/row", "e4m3fn/row", "ab", False, _GRADIENT),
    ("e4m3fnuz/row", "e4m3fnuz/row", "", False, {"gfx942": "v_mfma_f32_32x32x16_fp8_fp8"}),
    ("mxfp8", "mxfp8", "", False, _MX),
    ("int8/row", "int8/row", "", False, _INT8),
    ("int8/row", "int8/row", "b", False, _INT8),
    ("int8/row", "int8", "ab", False, _INT8),
    ("int8/1x128", "int8/128x128", "", False, _INT8),
    ("rf8/row", "rf8/row", "", False, _RF8),
    ("nvfp4", "nvfp4", "", False, _FP16),
    ("dynamic8/row", "e4m3fn/row", "", False, _FP32),
    ("nf4/1x64", "nf4/1x64", "b", False, _FP32),
)
_SPLIT: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("e4m3fn/row", "e4m3fn/row", _FP8),
    ("e4m3fn/1x128", "e4m3fn/128x128", _FP8),
    ("int8/row", "int8/row", _INT8),
)


# a, b, the scheme of the codes, the activation, rows.
_CODES: tuple[tuple[str, str, str, str, int, dict[str, str]], ...] = (
    ("e4m3fn/row", "e4m3fn/row", "e4m3fn/1x128", "silu", 4096, _FP8),
    ("e4m3fn/1x128", "e4m3fn/128x128", "e4m3fn/1x128", "gelu", 4096, _FP8),
    ("int8/row", "int8/row", "int8:static=0.05", "relu", 4096, _INT8),
    ("e4m3fn/row", "e4m3fn/row", "mxfp8", "gelu_tanh", 16, _FP8),
)


def compile_cases() -> Iterator[CompileCase]:
    """Launches of 4096 x 4096 x 4096, in the layouts of a linear layer, and of 16 x 4096 x 4096."""
    for a, b, turned, bias, instructions in _CASES:
        for target, instruction in instructions.items():
            yield from _cases(_call(_SIZE, a, b, turned, bias), target, instruction)
    for a, b, instructions in _SPLIT:
        for target, instruction in instructions.items():
            yield from _cases(_call(16, a, b, "", True, "silu"), target, instruction)


def coded_cases() -> Iterator[CompileCase]:
    """Products of which codes are written."""
    for a, b, scheme, activation, rows, instructions in _CODES:
        spec = parse(scheme)
        scale = torch.empty(spec.scale_shape((rows, _SIZE)), device="meta", dtype=scale_dtype(spec))
        call = _call(rows, a, b, "", False, activation)._replace(codes=Codes(spec, scale, 0, 0))
        for target, instruction in instructions.items():
            if _configs(call, scale, target):  # where codes are decoded, tiles are too narrow for 128 columns
                yield from _cases(call, target, instruction)


def _call(m: int, a: str, b: str, turned: str, bias: bool, activation: str = "none") -> Call:
    """A call without memory."""
    added = torch.empty(_SIZE, device="meta", dtype=torch.bfloat16) if bias else None
    specs = parse(a), parse(b)
    sides = (*_operand(m, specs[0], "a" in turned), *_operand(_SIZE, specs[1], "b" in turned))
    return Call(*sides, *specs, added, activation)


def _operand(rows: int, spec: Scheme, turned: bool) -> tuple[Tensor, Tensor]:
    """Codes and scale, without memory, of a [rows, 4096] matrix."""
    shape, kept = (rows, _SIZE), keeps_codes(spec)
    codes = torch.empty(shape[::-1] if turned else shape, device="meta", dtype=layout_of(spec.element).code_dtype)
    scales = spec.scale_shape(shape) if kept else tile_counts(shape, spec.factor_tile)
    scale = torch.empty(scales, device="meta", dtype=scale_dtype(spec) if kept else torch.float32)
    return codes.t() if turned else codes, scale


def _configs(call: Call, out: Tensor, target: str) -> tuple[Config, ...]:
    """The launches that the call may take, the model's best first."""
    product = class_of(call, out)
    found = launches(product, target, None if call.codes is None else str(call.codes.spec), call.activation)
    return tuple(sorted(found, key=partial(seconds, product=product, target=target)))


def _cases(call: Call, target: str, instruction: str) -> Iterator[CompileCase]:
    """The launches of one call: the kernel, and the sum of its parts where it is split."""
    spec = call.codes.spec if call.codes else None
    out_dtype = torch.bfloat16 if spec is None else layout_of(spec.element).code_dtype
    out = torch.empty(call.shape, device="meta", dtype=out_dtype)
    config = _configs(call, out, target)[0]
    split = config.split_k > 1
    parts = workspace(call, out, config) if split else out
    named = arguments(call, parts, config, target)
    name = _name(call)
    expected = [instruction.format(n=config.block_n)] + [_COPIES] * config.tma
    if named["PROMOTE"] == "sum":
        expected.append("add.f32")  # a product that the compiler has not folded into the sum
    case = _case(name, gemm_kernel, named, target, expected, config.num_warps, config.num_stages)
    case = replace(case, load_bytes=_load_bytes(call, config, target))
    yield replace(case, signature=case.signature | _descriptors(named, config)) if config.tma else case
    if split:
        last = sum_arguments(call, named, parts, out)
        warps = last.pop("num_warps")
        yield _case(f"{name}: sum of parts", sum_kernel, last, target, [], warps)


def _load_bytes(call: Call, config: Config, target: str) -> int:
    """Bytes that a thread reads at a time: what there is for it in a block of a, up to 16; half of that where both
    operands are turned, whose threads lie along the other axis, and where a K-block ends within a step."""
    threads = config.num_warps * (64 if target.startswith("gfx") else 32)
    share = min(16, config.block_m * config.block_k // threads)
    turned = is_turned(call.a) and is_turned(call.b)
    cut = scale_columns(call.spec_a.factor_tile, call.spec_b.factor_tile) % config.block_k > 0
    return share // 2 if turned or cut else share


def _name(call: Call) -> str:
    turned = "a" * is_turned(call.a) + "b" * is_turned(call.b)
    parts = [f"scaled_gemm {call.spec_a} × {call.spec_b}"]
    parts += [f"({turned} transposed)"] if turned else []
    parts += [f"→ {call.codes.spec}"] if call.codes else []
    return " ".join(parts + ([f"of {call.shape[0]} rows"] if call.shape[0] != _SIZE else []))


def _descriptors(named: dict[str, Any], config: Config) -> dict[str, str]:
    """Triton's types of the two operands' tensor descriptors."""
    types = {}
    for name, rows in (("a_ptr", config.block_m), ("b_ptr", config.block_n)):
        block = [config.block_k, rows] if is_turned(named[name]) else [rows, config.block_k]
        types[name] = f"tensordesc<{_TYPES[named[name].dtype]}{block}>".replace(" ", "")
    return types


def _case(
    name: str, kernel: Any, named: dict[str, Any], target: str, expected: list[str], warps: int = 4, stages: int = 3
) -> CompileCase:
    """The compilation of a launch with these arguments."""
    signature: dict[str, str] = {}
    for argument, value in named.items():
        if isinstance(value, Tensor):
            signature[argument] = "*" + _TYPES[value.dtype]
        elif argument in _INTEGERS and value != 1:  # a launch compiles for a stride of 1
            signature[argument] = "i64" if argument in ("seed", "offset") else "i32"
    return CompileCase(
        name=name,
        kernel=kernel,
        signature=signature,
        constants={argument: value for argument, value in named.items() if argument not in signature},
        num_warps=warps,
        num_stages=stages,
        expect=tuple((target, text) for text in expected),
        targets=(target,),
    )
