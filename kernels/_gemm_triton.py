"""Triton kernel of scaled_gemm, its launch and its ahead-of-time compilations; `kernels/_gemm_plan.py` chooses how.

Scales that are constant along K multiply the accumulator once, in the epilogue. Scales of K-blocks multiply the
partial sum of their block, which is then added to the float32 accumulator (DeepSeek-V3, arXiv 2412.19437 §3.3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, Scheme, parse
from narrowgauge.kernels import _cast
from narrowgauge.kernels._gemm_plan import INTERPRETER, NATIVE_FP8, Plan, plan, scale_columns, target_of
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import blob_for, has_e8m0_scales, layout_of, scale_dtype
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tiles import tile_counts


def keeps_codes(spec: Scheme) -> bool:
    """Whether the kernel takes the scales as they are stored; else as factors (block formats but those with E8M0)."""
    return not isinstance(spec.format, BlockFormat) or has_e8m0_scales(spec.format)


@jit
def _load_operand(ptr, table_ptr, offs_r, offs_k, rows, end, stride_r, stride_k, F: tl.constexpr,
                  OPERAND: tl.constexpr):  # fmt: skip
    """[R, K] codes, or their values where the tensor core does not take the codes; zero beyond the edges."""
    mask = (offs_r < rows)[:, None] & (offs_k < end)[None, :]
    codes = tl.load(ptr + offs_r[:, None] * stride_r + offs_k[None, :] * stride_k, mask=mask, other=0.0)
    if OPERAND == "fp8" or OPERAND == "int8":
        return codes
    else:
        values = _cast.decode(codes, table_ptr, F)
        if F.kind == "table":  # whose code 0 need not be zero
            values = tl.where(mask, values, 0.0)
        return values.to(tl.float16 if OPERAND == "fp16" else tl.bfloat16 if OPERAND == "bf16" else tl.float32)


@jit
def _factor(scale):
    """float32 of a stored scale: itself, or 2^(code - 127) of an E8M0 code."""
    if scale.dtype == tl.float32:
        return scale
    else:
        code = scale.to(tl.int32)
        return tl.where(code == 0xFF, float("nan"), _cast.power_of_two(code - 127))


@jit
def _load_scale(ptr, start_r, start_k, rows, stride_r, stride_k, TILE_R: tl.constexpr, TILE_K: tl.constexpr,
                BLOCK_R: tl.constexpr):  # fmt: skip
    """Scales at column start_k of BLOCK_R rows: one per row, or a single one where a tile holds them all.
    A tile side of 0 stands for all rows or columns."""
    if TILE_K > 0:
        ptr += (start_k // TILE_K) * stride_k
    if TILE_R == 0:
        return _factor(tl.load(ptr))
    elif TILE_R % BLOCK_R == 0:
        return _factor(tl.load(ptr + (start_r // TILE_R) * stride_r))
    else:
        offs_r = start_r + tl.arange(0, BLOCK_R)
        return _factor(tl.load(ptr + (offs_r // TILE_R) * stride_r, mask=offs_r < rows, other=0))


@jit
def _column(scale):
    """[R, 1] of one scale per row; a single one as it is."""
    if len(scale.shape) > 0:
        return scale[:, None]
    else:
        return scale


@jit
def _row(scale):
    """[1, R] of one scale per row of b; a single one as it is."""
    if len(scale.shape) > 0:
        return scale[None, :]
    else:
        return scale


@jit
def _gemm_kernel(a_ptr, b_ptr, out_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, a_table_ptr, b_table_ptr, M, N, K,
                 stride_am, stride_ak, stride_bn, stride_bk, stride_om, stride_asm, stride_ask, stride_bsn, stride_bsk,
                 A_F: tl.constexpr, B_F: tl.constexpr, OPERAND: tl.constexpr, A_TILE_M: tl.constexpr,
                 A_TILE_K: tl.constexpr, B_TILE_N: tl.constexpr, B_TILE_K: tl.constexpr,
                 SCALE_K: tl.constexpr, PROMOTE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr):  # fmt: skip
    """One BLOCK_M x BLOCK_N tile of the output. SCALE_K: columns over which both scales are constant, 0 for all."""
    pid = tl.program_id(0)
    blocks_m = tl.cdiv(M, BLOCK_M)
    group_size = GROUP_M * tl.cdiv(N, BLOCK_N)
    first_m = (pid // group_size) * GROUP_M
    group_m = min(blocks_m - first_m, GROUP_M)
    pid_m = first_m + (pid % group_size) % group_m
    pid_n = (pid % group_size) // group_m
    start_m = pid_m.to(tl.int64) * BLOCK_M
    start_n = pid_n.to(tl.int64) * BLOCK_N
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K).to(tl.int64)
    SUM: tl.constexpr = tl.int32 if OPERAND == "int8" else tl.float32
    STEPS: tl.constexpr = (SCALE_K + BLOCK_K - 1) // BLOCK_K if SCALE_K > 0 else 1
    blocks_k = tl.cdiv(K, SCALE_K) * STEPS if SCALE_K > 0 else tl.cdiv(K, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM if SCALE_K == 0 else tl.float32)
    for step in range(0, blocks_k):
        start = step * BLOCK_K
        end = K
        if SCALE_K % BLOCK_K > 0:
            start = (step // STEPS) * SCALE_K + (step % STEPS) * BLOCK_K
            end = min(K, (step // STEPS + 1) * SCALE_K)
        a = _load_operand(a_ptr, a_table_ptr, offs_m, start + offs_k, M, end, stride_am, stride_ak, A_F, OPERAND)
        b = _load_operand(b_ptr, b_table_ptr, offs_n, start + offs_k, N, end, stride_bn, stride_bk, B_F, OPERAND).T
        if SCALE_K > 0:
            part = tl.dot(a, b, out_dtype=SUM, input_precision=PRECISION).to(tl.float32)
            scale = 1.0
            if A_TILE_K > 0:
                scale = _column(
                    _load_scale(a_scale_ptr, start_m, start, M, stride_asm, stride_ask, A_TILE_M, A_TILE_K, BLOCK_M)
                )
            if B_TILE_K > 0:
                scale *= _row(
                    _load_scale(b_scale_ptr, start_n, start, N, stride_bsn, stride_bsk, B_TILE_N, B_TILE_K, BLOCK_N)
                )
            acc += part * scale
        elif PROMOTE:
            acc = tl.dot(a, b, acc, max_num_imprecise_acc=BLOCK_K)
        else:
            acc = tl.dot(a, b, acc, out_dtype=SUM, input_precision=PRECISION)
    acc = acc.to(tl.float32)
    if OPERAND == "int8":
        acc *= 2.0 ** (-A_F.fraction_bits - B_F.fraction_bits)
    if A_TILE_K == 0:
        acc *= _column(_load_scale(a_scale_ptr, start_m, 0, M, stride_asm, stride_ask, A_TILE_M, 0, BLOCK_M))
    if B_TILE_K == 0:
        acc *= _row(_load_scale(b_scale_ptr, start_n, 0, N, stride_bsn, stride_bsk, B_TILE_N, 0, BLOCK_N))
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)[None, :]
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


# torch dtype → Triton's name of it, for ahead-of-time signatures.
_POINTERS = {
    torch.uint8: "*u8", torch.int8: "*i8", torch.int32: "*i32", torch.float32: "*fp32", torch.float16: "*fp16",
    torch.bfloat16: "*bf16", torch.float8_e4m3fn: "*fp8e4nv", torch.float8_e5m2: "*fp8e5",
    torch.float8_e4m3fnuz: "*fp8e4b8", torch.float8_e5m2fnuz: "*fp8e5b16",
}  # fmt: skip


_SIZES = (
    "M", "N", "K", "stride_am", "stride_ak", "stride_bn", "stride_bk", "stride_om", "stride_asm", "stride_ask",
    "stride_bsn", "stride_bsk",
)  # fmt: skip


def _operand(codes: Tensor, fmt: Format, how: Plan, target: str) -> Tensor:
    return codes.view(NATIVE_FP8[target][fmt.name]) if how.operand == "fp8" else codes


def _arguments(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: Tensor, bias: Tensor | None,
    spec_a: Scheme, spec_b: Scheme, how: Plan, target: str,
) -> dict[str, Any]:  # fmt: skip
    """Every argument of the kernel by name."""
    (m, k), n = a.shape, b.shape[0]
    tile_a, tile_b = spec_a.factor_tile, spec_b.factor_tile
    tensors = {
        "a_ptr": _operand(a, spec_a.element, how, target), "b_ptr": _operand(b, spec_b.element, how, target),
        "out_ptr": out, "a_scale_ptr": a_scale, "b_scale_ptr": b_scale, "bias_ptr": bias,
        "a_table_ptr": blob_for(spec_a, a.device), "b_table_ptr": blob_for(spec_b, b.device),
    }  # fmt: skip
    strides = (*a.stride(), *b.stride(), out.stride(0), *a_scale.stride(), *b_scale.stride())
    sizes = dict(zip(_SIZES, (m, n, k, *strides), strict=True))
    constants = {
        "A_F": layout_of(spec_a.element), "B_F": layout_of(spec_b.element), "OPERAND": how.operand,
        "A_TILE_M": tile_a[0] or 0, "A_TILE_K": tile_a[1] or 0, "B_TILE_N": tile_b[0] or 0,
        "B_TILE_K": tile_b[1] or 0, "SCALE_K": scale_columns(tile_a, tile_b), "PROMOTE": how.promote,
        "PRECISION": how.precision,
        "BLOCK_M": how.block_m, "BLOCK_N": how.block_n, "BLOCK_K": how.block_k, "GROUP_M": 8,
    }  # fmt: skip
    return {**tensors, **sizes, **constants}


def launch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, spec_a: Scheme, spec_b: Scheme, bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Runs the kernel on checked arguments; see kernels/gemm.py for the contract."""
    m, n = a.shape[0], b.shape[0]
    target = target_of(a.device)
    how = plan(m, n, spec_a, spec_b, target)
    # Triton's interpreter truncates where it casts to bfloat16.
    out = a.new_empty((m, n), dtype=torch.float32 if target == INTERPRETER else out_dtype)
    if m and n:
        arguments = _arguments(a, a_scale, b, b_scale, out, bias, spec_a, spec_b, how, target)
        grid = (-(-m // how.block_m) * -(-n // how.block_n),)
        _gemm_kernel[grid](**arguments, num_warps=how.num_warps, num_stages=how.num_stages)
    return out.to(out_dtype)


# The instruction that multiplies, per target; {n} is the tile's width. Every fp8 pair is one `kind` on sm_100.
_FP16 = {
    "sm_80": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f16",
    "gfx942": "v_mfma_f32_32x32x8_f16",
}
_FP8 = _FP16 | {
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.e4m3.e4m3",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f8f6f4",
}
_GRADIENT = _FP8 | {"sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.f32.e5m2.e4m3"}
_INT8 = {
    "sm_80": "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k32.s32.s8.s8",
    "sm_100": "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
    "gfx942": "v_mfma_i32_32x32x16_i8",
}
_FP32 = {
    "sm_80": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "sm_90": "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16",
    "sm_100": "tcgen05.mma.cta_group::1.kind::f16",
    "gfx942": "v_mfma_f32_32x32x2_f32",
}
# a, b, the operands that are transposed views (as the backward products have them), whether there is a bias.
_CASES: tuple[tuple[str, str, str, bool, dict[str, str]], ...] = (
    ("e4m3fn", "e4m3fn", "", True, _FP8),
    ("e4m3fn/1x128", "e4m3fn/128x128", "", False, _FP8),
    ("e4m3fn/1x128", "e4m3fn/1x128", "ab", False, _FP8),
    ("e5m2/row", "e4m3fn/row", "b", False, _GRADIENT),
    ("e4m3fnuz/row", "e4m3fnuz/row", "", False, {"gfx942": "v_mfma_f32_32x32x16_fp8_fp8"}),
    ("mxfp8", "mxfp8", "", False, _FP8),
    ("int8/row", "int8/row", "", False, _INT8),
    ("int8/row", "int8", "ab", False, _INT8),
    ("int8/1x128", "int8/128x128", "", False, _INT8),
    ("rf8/row", "rf8/row", "", False, _FP16),
    ("nvfp4", "nvfp4", "", False, _FP16),
    ("dynamic8/row", "e4m3fn/row", "", False, _FP32),
    ("nf4/1x64", "nf4/1x64", "b", False, _FP32),
)


def compile_cases() -> Iterator[CompileCase]:
    """What launches of 4096 x 4096 x 4096 compile."""
    for a_scheme, b_scheme, turned, bias, instructions in _CASES:
        for target, instruction in instructions.items():
            yield _case(4096, parse(a_scheme), parse(b_scheme), turned, bias, target, instruction)


def _case(size: int, a: Scheme, b: Scheme, turned: str, bias: bool, target: str, instruction: str) -> CompileCase:
    def operand(spec: Scheme, name: str) -> tuple[Tensor, Tensor]:
        codes = torch.empty((size, size), device="meta", dtype=layout_of(spec.element).code_dtype)
        kept = keeps_codes(spec)
        shape = spec.scale_shape((size, size)) if kept else tile_counts((size, size), spec.factor_tile)
        scale = torch.empty(shape, device="meta", dtype=scale_dtype(spec) if kept else torch.float32)
        return codes.t() if name in turned else codes, scale

    how = plan(size, size, a, b, target)
    out = torch.empty((size, size), device="meta", dtype=torch.bfloat16)
    arguments = _arguments(*operand(a, "a"), *operand(b, "b"), out, out[0] if bias else None, a, b, how, target)
    signature: dict[str, str] = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            signature[name] = _POINTERS[value.dtype]
        elif name in _SIZES and value != 1:  # a launch compiles for a stride of 1
            signature[name] = "i32"
    return CompileCase(
        name=f"scaled_gemm {a} × {b}" + (f" ({turned} transposed)" if turned else ""),
        kernel=_gemm_kernel,
        signature=signature,
        constants={name: value for name, value in arguments.items() if name not in signature},
        num_warps=how.num_warps,
        num_stages=how.num_stages,
        expect=((target, instruction.format(n=how.block_n)),),
        targets=(target,),
    )
