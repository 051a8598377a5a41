"""Triton kernels of grouped_gemm and grouped_gemm_wgrad, and the launch of the first.

Offsets stay on the device: the grid has a program for every tile that there may be, which walks the groups until it
finds its own. (Programs that loop over several tiles would save little, and spill registers.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, Scheme
from narrowgauge.kernels import _cast, tuning
from narrowgauge.kernels._gemm_plan import INTERPRETER, NATIVE_FP8, scale_columns, target_of
from narrowgauge.kernels._grouped_gemm_plan import Config, Work, candidates, key_of, promotes, seconds, work_of
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import blob_for, has_e8m0_scales, layout_of


def keeps_codes(spec: Scheme) -> bool:
    """Whether the kernels take the scales as they are stored; else as factors (block formats but those with E8M0)."""
    return not isinstance(spec.format, BlockFormat) or has_e8m0_scales(spec.format)


@jit
def _operand(ptrs, mask, table_ptr, F: tl.constexpr, OPERAND: tl.constexpr):
    """Codes, or their values where the matrix unit does not take the codes; zero where not `mask`."""
    codes = tl.load(ptrs, mask=mask, other=0.0)
    if OPERAND == "fp8" or OPERAND == "int8":
        return codes
    else:
        values = _cast.decode(codes, table_ptr, F)
        if F.kind == "table":  # whose code 0 need not be zero
            values = tl.where(mask, values, 0.0)
        return values.to(tl.float16 if OPERAND == "fp16" else tl.bfloat16 if OPERAND == "bf16" else tl.float32)


@jit
def _factor(ptrs, mask):
    """float32 of stored scales: themselves, or 2^(code - 127) of E8M0 codes."""
    scale = tl.load(ptrs, mask=mask, other=0)
    if scale.dtype == tl.float32:
        return scale
    else:
        return _cast.e8m0_value(scale.to(tl.int32))


@jit
def _scales(ptr, start_r, rows, start_k, stride_r, stride_k, TILE_R: tl.constexpr, TILE_K: tl.constexpr,
            BLOCK_R: tl.constexpr):  # fmt: skip
    """The scales at column start_k of BLOCK_R rows from start_r: one per row, or [1] where a tile holds them all.
    A tile side of 0 stands for all rows or columns."""
    if TILE_K > 0:
        ptr += (start_k // TILE_K) * stride_k
    if TILE_R == 0:
        return _factor(ptr + tl.arange(0, 1), True)
    elif TILE_R % BLOCK_R == 0:
        return _factor(ptr + (start_r // TILE_R) * stride_r + tl.arange(0, 1), True)
    else:
        offs_r = start_r + tl.arange(0, BLOCK_R)
        return _factor(ptr + (offs_r // TILE_R) * stride_r, offs_r < rows)


@jit
def product(a_ptr, b_ptr, a_scale_ptr, b_scale_ptr, a_table_ptr, b_table_ptr, start_m, start_n, M, N, K, stride_am,
            stride_ak, stride_bn, stride_bk, stride_asm, stride_ask, stride_bsn, stride_bsk, A_F: tl.constexpr,
          B_F: tl.constexpr, OPERAND: tl.constexpr, A_TILE_M: tl.constexpr, A_TILE_K: tl.constexpr,
          B_TILE_N: tl.constexpr, B_TILE_K: tl.constexpr, SCALE_K: tl.constexpr, PROMOTE: tl.constexpr,
          PRECISION: tl.constexpr, INDEX: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
          BLOCK_K: tl.constexpr):  # fmt: skip
    """float32 [BLOCK_M, BLOCK_N] of the scaled product over K columns, from row start_m of a and start_n of b (int64).
    INDEX: type of the places inside of a tile."""
    SUM: tl.constexpr = tl.int32 if OPERAND == "int8" else tl.float32
    STEPS: tl.constexpr = (SCALE_K + BLOCK_K - 1) // BLOCK_K if SCALE_K > 0 else 1
    steps = tl.cdiv(K, SCALE_K) * STEPS if SCALE_K > 0 else tl.cdiv(K, BLOCK_K)
    rows = tl.arange(0, BLOCK_M)[:, None]
    cols = tl.arange(0, BLOCK_N)[:, None]
    columns = tl.arange(0, BLOCK_K)[None, :]
    a_places = rows.to(INDEX) * stride_am + columns.to(INDEX) * stride_ak
    b_places = cols.to(INDEX) * stride_bn + columns.to(INDEX) * stride_bk
    a_rows = rows < M - start_m
    b_rows = cols < N - start_n
    a_ptr += start_m * stride_am
    b_ptr += start_n * stride_bn
    acc = tl.zeros((BLOCK_M, BLOCK_N), SUM if SCALE_K == 0 else tl.float32)
    for step in range(0, steps):
        start = step * BLOCK_K
        end = K
        if SCALE_K % BLOCK_K > 0:
            start = (step // STEPS) * SCALE_K + (step % STEPS) * BLOCK_K
            end = min(K, (step // STEPS + 1) * SCALE_K)
        inside = columns < end - start
        a = _operand(a_ptr + tl.cast(start, tl.int64) * stride_ak + a_places, a_rows & inside, a_table_ptr, A_F,
                     OPERAND)  # fmt: skip
        b = _operand(b_ptr + tl.cast(start, tl.int64) * stride_bk + b_places, b_rows & inside, b_table_ptr, B_F,
                     OPERAND)  # fmt: skip
        if SCALE_K > 0:
            part = tl.dot(a, b.T, out_dtype=SUM, input_precision=PRECISION).to(tl.float32)
            if A_TILE_K > 0:
                s = _scales(a_scale_ptr, start_m, M, start, stride_asm, stride_ask, A_TILE_M, A_TILE_K, BLOCK_M)
                part *= s[:, None]
            if B_TILE_K > 0:
                s = _scales(b_scale_ptr, start_n, N, start, stride_bsn, stride_bsk, B_TILE_N, B_TILE_K, BLOCK_N)
                part *= s[None, :]
            acc += part
        elif PROMOTE == "wgmma":
            acc = tl.dot(a, b.T, acc, max_num_imprecise_acc=BLOCK_K)
        elif PROMOTE == "sum":
            # Without a limit of its own the product would be folded into the sum that it is to be kept out of.
            acc += tl.dot(a, b.T, out_dtype=SUM, max_num_imprecise_acc=BLOCK_K)
        else:
            acc = tl.dot(a, b.T, acc, out_dtype=SUM, input_precision=PRECISION)
    out = acc.to(tl.float32)
    if OPERAND == "int8":
        out *= 2.0 ** (-A_F.fraction_bits - B_F.fraction_bits)
    if A_TILE_K == 0:
        out *= _scales(a_scale_ptr, start_m, M, 0, stride_asm, stride_ask, A_TILE_M, 0, BLOCK_M)[:, None]
    if B_TILE_K == 0:
        out *= _scales(b_scale_ptr, start_n, N, 0, stride_bsn, stride_bsk, B_TILE_N, 0, BLOCK_N)[None, :]
    return out


@jit
def _larger(a, b):
    return tl.maximum(a, b)


@jit
def grouped_kernel(a_ptr, b_ptr, out_ptr, a_scale_ptr, b_scale_ptr, offsets_ptr, a_table_ptr, b_table_ptr, T, N, K,
                    groups, stride_am, stride_ak, stride_bg, stride_bn, stride_bk, stride_om, stride_asm, stride_ask,
                    stride_bsg, stride_bsn, stride_bsk, A_F: tl.constexpr, B_F: tl.constexpr, OPERAND: tl.constexpr,
                    A_TILE_M: tl.constexpr, A_TILE_K: tl.constexpr, B_TILE_N: tl.constexpr, B_TILE_K: tl.constexpr,
                    SCALE_K: tl.constexpr, PROMOTE: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
                    GROUPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                    BLOCK_K: tl.constexpr):  # fmt: skip
    """The tile with this program's number, counted over the groups. Rows behind the last group are one more group, of
    zeros; programs beyond it have nothing to do. GROUPS: a power of two above the number of groups."""
    tile = tl.program_id(0)
    index = tl.arange(0, GROUPS)
    ends = tl.load(offsets_ptr + index, mask=index < groups, other=T)
    begins = tl.load(offsets_ptr + (index - 1), mask=(index > 0) & (index <= groups), other=0)
    begins = tl.where(index > groups, T, begins)
    # An end below the one before counts as that one.
    ends = tl.associative_scan(tl.minimum(tl.maximum(ends, 0), T), 0, _larger)
    begins = tl.associative_scan(tl.minimum(tl.maximum(begins, 0), T), 0, _larger)
    tiles = tl.cdiv(ends - begins, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    after = tl.cumsum(tiles, 0)
    here = (tile >= after - tiles) & (tile < after)
    first = tl.sum(tl.where(here, after - tiles, 0))
    start = tl.sum(tl.where(here, begins, 0))
    end = tl.sum(tl.where(here, ends, 0))
    group = tl.sum(tl.where(here, index + 1, 0)) - 1
    if group >= 0:
        # Down first: the tiles that run together read the same part of the group's weights.
        blocks_m = tl.cdiv(end - start, BLOCK_M)
        start_m = start + ((tile - first) % blocks_m).to(tl.int64) * BLOCK_M
        start_n = ((tile - first) // blocks_m).to(tl.int64) * BLOCK_N
        this = tl.minimum(group, groups - 1).to(tl.int64)
        depth = tl.where(group < groups, K, 0)
        out = product(a_ptr, b_ptr + this * stride_bg, a_scale_ptr, b_scale_ptr + this * stride_bsg, a_table_ptr,
                    b_table_ptr, start_m, start_n, end, N, depth, stride_am, stride_ak, stride_bn, stride_bk,
                    stride_asm, stride_ask, stride_bsn, stride_bsk, A_F, B_F, OPERAND, A_TILE_M, A_TILE_K, B_TILE_N,
                    B_TILE_K, SCALE_K, PROMOTE, PRECISION, INDEX, BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip
        out = tl.where(group < groups, out, 0.0)  # whatever the scales are there
        offs_m = start_m + tl.arange(0, BLOCK_M)
        offs_n = start_n + tl.arange(0, BLOCK_N)
        mask = (offs_m < end)[:, None] & (offs_n < N)[None, :]
        out_ptrs = out_ptr + offs_m[:, None] * stride_om + offs_n[None, :]
        tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=mask)


SIZES = (
    "T", "N", "K", "groups", "stride_am", "stride_ak", "stride_bg", "stride_bn", "stride_bk", "stride_om", "stride_asm",
    "stride_ask", "stride_bsg", "stride_bsn", "stride_bsk",
)  # fmt: skip


def native(codes: Tensor, fmt: Format, operand: str, target: str) -> Tensor:
    return codes.view(NATIVE_FP8[target][fmt.name]) if operand == "fp8" else codes


def arguments_of(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, out: Tensor, specs: tuple[Scheme, Scheme],
    work: Work, config: Config, target: str,
) -> dict[str, Any]:  # fmt: skip
    """Every argument of the kernel by name."""
    tiles = specs[0].factor_tile, specs[1].factor_tile
    tensors = {
        "a_ptr": native(a, specs[0].element, work.operand, target),
        "b_ptr": native(b, specs[1].element, work.operand, target),
        "out_ptr": out, "a_scale_ptr": a_scale, "b_scale_ptr": b_scale, "offsets_ptr": offsets,
        "a_table_ptr": blob_for(specs[0], a.device), "b_table_ptr": blob_for(specs[1], b.device),
    }  # fmt: skip
    numbers = (a.shape[0], b.shape[1], a.shape[1], b.shape[0], *a.stride(), *b.stride(), out.stride(0),
               *a_scale.stride(), *b_scale.stride())  # fmt: skip
    constants = {
        "A_F": layout_of(specs[0].element), "B_F": layout_of(specs[1].element), "OPERAND": work.operand,
        "A_TILE_M": tiles[0][0] or 0, "A_TILE_K": tiles[0][1] or 0, "B_TILE_N": tiles[1][0] or 0,
        "B_TILE_K": tiles[1][1] or 0, "SCALE_K": scale_columns(*tiles), "PROMOTE": promotes(work, target),
        "PRECISION": "bf16x6" if target.startswith("sm_") else "ieee", "INDEX": index_type(a, b),
        "GROUPS": 1 << b.shape[0].bit_length(), "BLOCK_M": config.block_m, "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
    }  # fmt: skip
    return {**tensors, **dict(zip(SIZES, numbers, strict=True)), **constants}


def turned(*operands: Tensor) -> bool:
    """Whether the contraction is not the contiguous axis of an operand."""
    return any(x.stride(-1) != 1 for x in operands)


def index_type(*operands: Tensor) -> Any:
    """Type of the places inside of a tile: its sides are 256 at most."""
    return tl.int32 if max(max(x.stride()[-2:], default=0) for x in operands) < 2**22 else tl.int64


def launch(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, offsets: Tensor, specs: tuple[Scheme, Scheme],
    out_dtype: torch.dtype, config: Config | None = None,
) -> Tensor:  # fmt: skip
    """Runs the kernel on checked arguments; see kernels/grouped_gemm.py. config: the launch instead of the chosen."""
    target, offsets = target_of(a.device), offsets.contiguous()
    (rows, depth), (groups, cols) = a.shape, b.shape[:2]
    work = work_of(groups, rows, cols, depth, *specs, turned(a, b), target)
    # Triton's interpreter truncates where it casts to bfloat16.
    out = a.new_empty((rows, cols), dtype=torch.float32 if target == INTERPRETER else out_dtype)
    if not (rows and cols):
        return out.to(out_dtype)

    def run(chosen: Config) -> None:
        arguments = arguments_of(a, a_scale, b, b_scale, offsets, out, specs, work, chosen, target)
        # Every group adds one tile down at most that is not full, the rows behind the last as well.
        grid = ((rows // chosen.block_m + groups + 1) * -(-cols // chosen.block_n),)
        grouped_kernel[grid](**arguments, num_warps=chosen.num_warps, num_stages=chosen.num_stages)

    run(config or choice("grouped_gemm", work, target, run, a.device))
    return out.to(out_dtype)


def choice(op: str, work: Work, target: str, run: Callable[[Config], None], device: torch.device) -> Config:
    """The launch for `work`, by the model or as measured."""
    ranks = partial(seconds, work=work, target=target)
    return tuning.choose(op, key_of(work, op), lambda: candidates(work, target), ranks, run, device)
