"""Ahead-of-time compilations of the kernels of weight_only_gemm: what launches on a 4096 x 4096 weight compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.formats.packing import packed_nbytes
from narrowgauge.kernels import _weight_only_triton as kernels
from narrowgauge.kernels._weight_only_kernel import join_kernel
from narrowgauge.kernels._weight_only_model import seconds
from narrowgauge.kernels._weight_only_plan import Shape, candidates, way_of
from narrowgauge.kernels._weight_only_torch import Weight
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.op import CompileCase

SIZE = 4096
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
POINTERS = {
    torch.uint8: "*u8", torch.int8: "*i8", torch.int32: "*i32", torch.float32: "*fp32", torch.float16: "*fp16",
    torch.bfloat16: "*bf16", torch.float64: "*fp64",
}  # fmt: skip
"""torch dtype → Triton's name of it, for ahead-of-time signatures."""
_SIZES = ("T", "N", "K", "WIDTH", "stride_xt", "stride_xk", "stride_cn", "stride_ck", "stride_sn", "steps")

# The instruction that multiplies; {t} is how many rows of x it takes, {type} their type.
_MMA = "mma.sync.aligned.m16n8k16.row.col.f32.{type}.{type}.f32"
_INSTRUCTIONS = {
    "sm_80": _MMA, "sm_89": _MMA, "sm_90": "wgmma.mma_async.sync.aligned.m64n{t}k16.f32.{type}.{type}",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f16", "sm_120": _MMA, "gfx942": "v_mfma_f32_", "gfx950": "v_mfma_f32_",
}  # fmt: skip
# scheme, rows of x, dtype of x, whether there are a zero point and a bias.
_CASES = (
    ("int8/row", 1, torch.bfloat16, False, True),
    ("int4/1x128", 1, torch.bfloat16, False, False),
    ("int4/1x128", 4, torch.float16, False, False),
    ("nf4/1x64", 1, torch.bfloat16, False, False),
    ("e4m3fn/row", 1, torch.bfloat16, False, False),
    ("rf8/row", 1, torch.bfloat16, False, False),
    ("mxfp4", 1, torch.bfloat16, False, False),
    ("nvfp4", 1, torch.bfloat16, False, False),
    ("uint4/1x128", 1, torch.float16, True, False),
    ("int8/row", 16, torch.bfloat16, False, True),
    ("int4/1x128", 16, torch.bfloat16, False, False),
    ("nf4/1x64", 16, torch.bfloat16, False, False),
    ("int8/row", 512, torch.bfloat16, False, False),
    ("int4/1x128", 512, torch.bfloat16, False, False),
    ("int4/1x32", 512, torch.bfloat16, False, False),
    ("nf4/1x64", 512, torch.bfloat16, False, False),
    ("e4m3fn/row", 512, torch.bfloat16, False, False),
    ("rf8/row", 512, torch.bfloat16, False, False),
    ("mxfp4", 512, torch.bfloat16, False, False),
    ("nvfp4", 512, torch.bfloat16, False, False),
    ("uint4/1x128", 512, torch.float16, True, False),
    ("int4/1x128", 512, torch.float32, False, False),
)  # fmt: skip


def compile_cases() -> Iterator[CompileCase]:
    """One of each case and target, with the launch that the model takes there."""
    for scheme, rows, dtype, zero, bias in _CASES:
        for target in TARGETS:
            yield _case(scheme, rows, dtype, zero, bias, target)
    for splits in (2, 8):
        signature = {"parts_ptr": "*fp32", "out_ptr": "*bf16", "count": "i32", "N": "i32"}
        constants = {"bias_ptr": None, "PARTS": splits, "BLOCK": kernels.JOIN_BLOCK}
        yield CompileCase(f"weight_only_gemm join {splits}", join_kernel, signature, constants)


def _case(scheme: str, rows: int, dtype: torch.dtype, zero: bool, bias: bool, target: str) -> CompileCase:
    def meta(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=kind, device="meta")

    spec = parse(scheme)
    fmt, packed = spec.element, spec.element.bits < 8
    scale = meta(*spec.scale_shape((SIZE, SIZE)), kind=scale_dtype(spec))
    codes = meta(SIZE, packed_nbytes(SIZE, fmt.bits), kind=torch.uint8 if packed else layout_of(fmt).code_dtype)
    outer, point = meta() if spec.two_level else None, torch.empty_like(scale) if zero else None
    weight = Weight(codes, scale, outer, point, spec, SIZE, packed)
    way, shape = way_of(spec, dtype, packed, zero, target), Shape(rows, SIZE, SIZE)
    how = min(candidates(shape, way, target), key=lambda how: seconds(shape, way, how, target))
    x = meta(rows, SIZE, kind=dtype)
    out = meta(how.splits, rows, SIZE) if how.splits > 1 else meta(rows, SIZE, kind=dtype)
    given = kernels.arguments(x, weight, kernels.read_scale(weight, way), x[0] if bias else None, out, way, how)
    signature: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
        elif name in _SIZES and value != 1:  # a launch compiles for an integer of 1
            signature[name] = "i32"
    kind = "f16" if way.operand == "fp16" else "bf16"  # of float32 as well, which is taken apart
    instruction = _INSTRUCTIONS[target].format(t=how.block_t, type=kind)
    return CompileCase(
        name=f"weight_only_gemm {scheme} x {rows} {str(dtype).removeprefix('torch.')}",
        kernel=kernels.kernel_of(how),
        signature=signature,
        constants={name: value for name, value in given.items() if name not in signature},
        num_warps=how.num_warps,
        num_stages=how.num_stages,
        expect=((target, instruction),) if how.kernel == "dot" else (),
        targets=(target,),
    )
