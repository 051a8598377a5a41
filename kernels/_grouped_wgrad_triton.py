"""Triton kernel of grouped_gemm_wgrad, its launch and its ahead-of-time compilations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels import _grouped_gemm_cases as cases
from narrowgauge.kernels import _grouped_gemm_triton as grouped
from narrowgauge.kernels._gemm_plan import INTERPRETER, target_of
from narrowgauge.kernels._grouped_gemm_plan import Config, Work, candidates, promotes, seconds, work_of
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import blob_for, layout_of
from narrowgauge.kernels.op import CompileCase

_product = grouped.product


@jit
def _wgrad_kernel(a_ptr, b_ptr, out_ptr, a_scale_ptr, b_scale_ptr, offsets_ptr, a_table_ptr, b_table_ptr, M, N, T,
                  stride_am, stride_at, stride_bn, stride_bt, stride_og, stride_om, stride_asg, stride_asm, stride_bsg,
                  stride_bsn, A_F: tl.constexpr, B_F: tl.constexpr, OPERAND: tl.constexpr, A_TILE_M: tl.constexpr,
                  B_TILE_N: tl.constexpr, PROMOTE: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
                  GROUPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                  BLOCK_K: tl.constexpr):  # fmt: skip
    """One tile of the product of one group. An end below the one before counts as that one, for all that follow.
    GROUPS: a power of two, no less than the number of groups."""
    pid = tl.program_id(0)
    blocks_m = tl.cdiv(M, BLOCK_M)
    tiles = blocks_m * tl.cdiv(N, BLOCK_N)
    group = pid // tiles
    index = tl.arange(0, GROUPS)
    ends = tl.load(offsets_ptr + index, mask=index <= group, other=0)
    start = tl.minimum(tl.maximum(tl.max(tl.where(index < group, ends, 0)), 0), T)
    end = tl.minimum(tl.maximum(tl.max(ends), 0), T)
    start_m = (pid % tiles % blocks_m).to(tl.int64) * BLOCK_M
    start_n = (pid % tiles // blocks_m).to(tl.int64) * BLOCK_N
    this = group.to(tl.int64)
    first = start.to(tl.int64)
    out = _product(a_ptr + first * stride_at, b_ptr + first * stride_bt, a_scale_ptr + this * stride_asg,
                   b_scale_ptr + this * stride_bsg, a_table_ptr, b_table_ptr, start_m, start_n, M, N, end - start,
                   stride_am, stride_at, stride_bn, stride_bt, stride_asm, 1, stride_bsn, 1, A_F, B_F, OPERAND,
                   A_TILE_M, 0, B_TILE_N, 0, 0, PROMOTE, PRECISION, INDEX, BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip
    out = tl.where(end > start, out, 0.0)  # whatever the scales of an empty group are
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    out_ptrs = out_ptr + this * stride_og + offs_m[:, None] * stride_om + offs_n[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


_SIZES = (
    "M", "N", "T", "stride_am", "stride_at", "stride_bn", "stride_bt", "stride_og", "stride_om", "stride_asg",
    "stride_asm", "stride_bsg", "stride_bsn",
)  # fmt: skip


def _arguments(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, out: Tensor, specs: tuple[Scheme, Scheme],
    work: Work, config: Config, target: str,
) -> dict[str, Any]:  # fmt: skip
    """Every argument of the kernel by name."""
    tensors = {
        "a_ptr": grouped.native(a, specs[0].element, work.operand, target),
        "b_ptr": grouped.native(b, specs[1].element, work.operand, target),
        "out_ptr": out, "a_scale_ptr": a_scale, "b_scale_ptr": b_scale, "offsets_ptr": offsets,
        "a_table_ptr": blob_for(specs[0], a.device), "b_table_ptr": blob_for(specs[1], b.device),
    }  # fmt: skip
    numbers = (a.shape[0], b.shape[0], a.shape[1], *a.stride(), *b.stride(), *out.stride()[:2], *a_scale.stride()[:2],
               *b_scale.stride()[:2])  # fmt: skip
    constants = {
        "A_F": layout_of(specs[0].element), "B_F": layout_of(specs[1].element), "OPERAND": work.operand,
        "A_TILE_M": specs[0].factor_tile[0] or 0, "B_TILE_N": specs[1].factor_tile[0] or 0,
        "PROMOTE": promotes(work, target), "PRECISION": "bf16x6" if target.startswith("sm_") else "ieee",
        "INDEX": grouped.index_type(a, b), "GROUPS": 1 << (offsets.shape[0] - 1).bit_length(),
        "BLOCK_M": config.block_m, "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
    }  # fmt: skip
    return {**tensors, **dict(zip(_SIZES, numbers, strict=True)), **constants}


def _work(groups: int, m: int, n: int, total: int, specs: tuple[Scheme, Scheme], turned: bool, target: str) -> Work:
    return work_of(groups, groups * m, n, -(-total // groups), *specs, turned, target)


def launch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, specs: tuple[Scheme, Scheme],
    out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Runs the kernel on checked arguments; see kernels/grouped_gemm_wgrad.py."""
    target, offsets = target_of(a.device), offsets.contiguous()
    groups, m, n = offsets.shape[0], a.shape[0], b.shape[0]
    work = _work(groups, m, n, a.shape[1], specs, grouped.turned(a, b), target)
    # Triton's interpreter truncates where it casts to bfloat16.
    out = a.new_empty((groups, m, n), dtype=torch.float32 if target == INTERPRETER else out_dtype)
    if not (m and n):
        return out.to(out_dtype)

    def run(chosen: Config) -> None:
        arguments = _arguments(a, a_scale, b, b_scale, offsets, out, specs, work, chosen, target)
        grid = (groups * -(-m // chosen.block_m) * -(-n // chosen.block_n),)
        _wgrad_kernel[grid](**arguments, num_warps=chosen.num_warps, num_stages=chosen.num_stages)

    run(grouped.choice("grouped_gemm_wgrad", work, target, run, a.device))
    return out.to(out_dtype)


# a and b as the backward product has them: transposed views of [T, M] and [T, N].
_CASES: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("e5m2/row", "e4m3fn/row", cases.FP8),
    ("e4m3fn", "e4m3fn", cases.FP8),
    ("int8/row", "int8/row", cases.INT8),
)


def compile_cases() -> Iterator[CompileCase]:
    """What launches of 8 groups, 8192 columns in all, of 4096 x 4096 results compile."""
    for a_scheme, b_scheme, instructions in _CASES:
        for target, instruction in instructions.items():
            yield _case(8, 4096, 8192, (parse(a_scheme), parse(b_scheme)), target, instruction)


def _case(
    groups: int, size: int, total: int, specs: tuple[Scheme, Scheme], target: str, instruction: str
) -> CompileCase:
    work = _work(groups, size, size, total, specs, True, target)
    config = min(candidates(work, target), key=lambda c: seconds(c, work, target))
    a, b = (torch.empty((total, size), device="meta", dtype=layout_of(spec.element).code_dtype).t() for spec in specs)
    scales = [torch.stack([cases.scale_like(spec, (size, total))] * groups) for spec in specs]
    out = torch.empty((groups, size, size), device="meta", dtype=torch.bfloat16)
    offsets = torch.empty((groups,), device="meta", dtype=torch.int32)
    arguments = _arguments(a, scales[0], b, scales[1], offsets, out, specs, work, config, target)
    name = f"grouped_gemm_wgrad {specs[0]} × {specs[1]}"
    text = cases.instruction_text(instruction, config, specs)
    return cases.case_of(name, _wgrad_kernel, arguments, _SIZES, config, target, text)
