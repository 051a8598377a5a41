"""Triton kernels of block_scaled_gemm, their launch; see `kernels/_block_gemm_plan.py`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Format, Scheme, get
from narrowgauge.kernels import _cast, tuning
from narrowgauge.kernels._block_gemm_plan import Config, Path, block_of, candidates, key_of, path_of, seconds
from narrowgauge.kernels._gemm_plan import INTERPRETER, target_of
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import Layout, layout_of


@jit
def recode_kernel(codes_ptr, out_ptr, table_ptr, rows, in_cols, out_cols, stride_r, stride_c, PACKED: tl.constexpr,
                  PACK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """[rows, in_cols] codes, PACKED two a byte or not, as the bytes out_ptr: packed two a byte, or table[code]."""
    IN: tl.constexpr = BLOCK_C // 2 if PACKED else BLOCK_C
    OUT: tl.constexpr = BLOCK_C // 2 if PACK else BLOCK_C
    offs_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    offs_in = tl.program_id(1).to(tl.int64) * IN + tl.arange(0, IN)
    offs_out = tl.program_id(1).to(tl.int64) * OUT + tl.arange(0, OUT)
    mask = (offs_r < rows)[:, None] & (offs_in < in_cols)[None, :]
    codes = tl.load(codes_ptr + offs_r[:, None] * stride_r + offs_in[None, :] * stride_c, mask=mask, other=0)
    if PACKED:
        codes = tl.interleave(codes & 0xF, codes >> 4)
    if PACK:
        low, high = tl.split(codes.reshape((BLOCK_R, OUT, 2)))
        out = (low & 0xF) | (high << 4)
    else:
        out = tl.load(table_ptr + codes.to(tl.int32))
    mask = (offs_r < rows)[:, None] & (offs_out < out_cols)[None, :]
    tl.store(out_ptr + offs_r[:, None] * out_cols + offs_out[None, :], out, mask=mask)


@jit
def _load_scales(ptr, start_r, start_c, rows, cols, stride_r, stride_c, TILED: tl.constexpr, R: tl.constexpr,
                 C: tl.constexpr):  # fmt: skip
    """[R, C] scale codes from row start_r, column start_c; TILED: stored as 128x4 tiles (`kernels/swizzle.py`)."""
    offs_r = start_r + tl.arange(0, R)
    offs_c = start_c + tl.arange(0, C)
    if TILED:
        tile_row = tl.cdiv(cols, 4) * 512  # bytes
        if R % 128 == 0 and C % 4 == 0:
            # Whole tiles, read as they lie.
            tiles = start_r // 128 + tl.arange(0, R // 128)
            place = start_c * 128 + tl.arange(0, C * 128)
            mask = (tiles * 128 < rows)[:, None] & (place < tile_row)[None, :]
            x = tl.load(ptr + tiles[:, None] * tile_row + place[None, :], mask=mask, other=0)
            return x.reshape((R // 128, C // 4, 32, 4, 4)).permute((0, 3, 2, 1, 4)).reshape((R, C))
        else:
            down = (offs_r // 128) * tile_row + (offs_r % 32) * 16 + (offs_r % 128) // 32 * 4
            place = down[:, None] + ((offs_c // 4) * 512 + offs_c % 4)[None, :]
            return tl.load(ptr + place, mask=(offs_r < rows)[:, None] & (offs_c < cols)[None, :], other=0)
    else:
        mask = (offs_r < rows)[:, None] & (offs_c < cols)[None, :]
        return tl.load(ptr + offs_r[:, None] * stride_r + offs_c[None, :] * stride_c, mask=mask, other=0)


@jit
def _values(codes, scales, F: tl.constexpr, PACKED: tl.constexpr, S_F: tl.constexpr, BLOCK: tl.constexpr,
            R: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """float32 [R, K] of codes and the scales of their blocks. S_F: layout of the scales, None for E8M0."""
    if PACKED:
        codes = tl.interleave(codes & 0xF, codes >> 4)
    if S_F is None:
        code = scales.to(tl.int32)
        factors = _cast.e8m0_value(code)
    else:
        factors = _cast.decode(scales, None, S_F)
    values = _cast.decode(codes, None, F).reshape((R, K // BLOCK, BLOCK))
    return (values * factors.expand_dims(2)).reshape((R, K))


@jit
def expand_kernel(codes_ptr, scale_ptr, out_ptr, rows, in_cols, cols, scale_cols, stride_r, stride_c, stride_sr,
                  stride_sc, F: tl.constexpr, S_F: tl.constexpr, PACKED: tl.constexpr, TILED: tl.constexpr,
                  BLOCK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """[rows, cols] values times the scales of their blocks, contiguous."""
    IN: tl.constexpr = BLOCK_C // 2 if PACKED else BLOCK_C
    start_r = tl.program_id(0).to(tl.int64) * BLOCK_R
    start_c = tl.program_id(1).to(tl.int64) * BLOCK_C
    offs_r = start_r + tl.arange(0, BLOCK_R)
    offs_in = tl.program_id(1).to(tl.int64) * IN + tl.arange(0, IN)
    mask = (offs_r < rows)[:, None] & (offs_in < in_cols)[None, :]
    codes = tl.load(codes_ptr + offs_r[:, None] * stride_r + offs_in[None, :] * stride_c, mask=mask, other=0)
    scales = _load_scales(scale_ptr, start_r, start_c // BLOCK, rows, scale_cols, stride_sr, stride_sc, TILED,
                          BLOCK_R, BLOCK_C // BLOCK)  # fmt: skip
    values = _values(codes, scales, F, PACKED, S_F, BLOCK, BLOCK_R, BLOCK_C)
    offs_c = start_c + tl.arange(0, BLOCK_C)
    mask = (offs_r < rows)[:, None] & (offs_c < cols)[None, :]
    tl.store(out_ptr + offs_r[:, None] * cols + offs_c[None, :], values.to(out_ptr.dtype.element_ty), mask=mask)


@jit
def block_gemm_kernel(a_ptr, b_ptr, out_ptr, a_scale_ptr, b_scale_ptr, a_outer_ptr, b_outer_ptr, bias_ptr, M, N, K,
                       a_cols, b_cols, scale_cols, stride_am, stride_ak, stride_bn, stride_bk, stride_om, stride_asm,
                       stride_ask, stride_bsn, stride_bsk, A_FORMAT: tl.constexpr, B_FORMAT: tl.constexpr,
                       A_F: tl.constexpr, B_F: tl.constexpr, S_F: tl.constexpr, A_PACKED: tl.constexpr,
                       B_PACKED: tl.constexpr, A_TILED: tl.constexpr, B_TILED: tl.constexpr, HOW: tl.constexpr,
                       OPERAND: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                       BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr):  # fmt: skip
    """One BLOCK_M x BLOCK_N tile of the output. HOW: as `Config.how`; scales of None where "expanded"."""
    pid = tl.program_id(0)
    blocks_m = tl.cdiv(M, BLOCK_M)
    group_size = GROUP_M * tl.cdiv(N, BLOCK_N)
    first_m = (pid // group_size) * GROUP_M
    group_m = min(blocks_m - first_m, GROUP_M)
    start_m = (first_m + (pid % group_size) % group_m).to(tl.int64) * BLOCK_M
    start_n = ((pid % group_size) // group_m).to(tl.int64) * BLOCK_N
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    A_K: tl.constexpr = BLOCK_K // 2 if A_PACKED else BLOCK_K
    B_K: tl.constexpr = BLOCK_K // 2 if B_PACKED else BLOCK_K
    S_K: tl.constexpr = BLOCK_K // BLOCK
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, tl.cdiv(K, BLOCK_K)):
        offs_a = step * A_K + tl.arange(0, A_K).to(tl.int64)
        offs_b = step * B_K + tl.arange(0, B_K).to(tl.int64)
        a = tl.load(a_ptr + offs_m[:, None] * stride_am + offs_a[None, :] * stride_ak,
                    mask=(offs_m < M)[:, None] & (offs_a < a_cols)[None, :], other=0)  # fmt: skip
        b = tl.load(b_ptr + offs_n[:, None] * stride_bn + offs_b[None, :] * stride_bk,
                    mask=(offs_n < N)[:, None] & (offs_b < b_cols)[None, :], other=0)  # fmt: skip
        if HOW == "expanded":
            acc = tl.dot(a, b.T, acc, input_precision="ieee")
        else:
            a_scale = _load_scales(a_scale_ptr, start_m, step * S_K, M, scale_cols, stride_asm, stride_ask, A_TILED,
                                   BLOCK_M, S_K)  # fmt: skip
            b_scale = _load_scales(b_scale_ptr, start_n, step * S_K, N, scale_cols, stride_bsn, stride_bsk, B_TILED,
                                   BLOCK_N, S_K)  # fmt: skip
            if HOW == "scaled":
                if S_F is not None:
                    a_scale = a_scale.to(tl.float8e4nv, bitcast=True)
                    b_scale = b_scale.to(tl.float8e4nv, bitcast=True)
                acc = tl.dot_scaled(a, a_scale, A_FORMAT, b.T, b_scale, B_FORMAT, acc)
            else:
                x = _values(a, a_scale, A_F, A_PACKED, S_F, BLOCK, BLOCK_M, BLOCK_K).to(OPERAND)
                y = _values(b, b_scale, B_F, B_PACKED, S_F, BLOCK, BLOCK_N, BLOCK_K).to(OPERAND)
                acc = tl.dot(x, y.T, acc, input_precision="ieee")
    if a_outer_ptr is not None:
        acc *= tl.load(a_outer_ptr)
    if b_outer_ptr is not None:
        acc *= tl.load(b_outer_ptr)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)[None, :]
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


@lru_cache(maxsize=64)
def _table(fmt: Format, device: torch.device) -> Tensor:
    """The e4m3fn code of every code of `fmt`, 256 entries (codes beyond the format's bits repeat)."""
    codes = np.arange(256) & (2**fmt.bits - 1)
    return torch.from_numpy(get("e4m3fn").encode(fmt.decode(codes)).astype(np.uint8)).to(device)


def _fed(codes: Tensor, spec: Scheme, packed: bool, name: str, k: int) -> Tensor:
    """The codes as `dot_scaled` takes them under `name`: as they are, packed, or as e4m3fn."""
    packs = name == "e2m1"
    if packed == packs and (packs or spec.element.bits == 8):
        return codes
    rows, out_cols = codes.shape[0], -(-k // 2) if packs else k
    out = codes.new_empty((rows, out_cols))
    table = None if packs else _table(spec.element, codes.device)
    grid = (-(-rows // 16), -(-k // 512))
    recode_kernel[grid](codes, out, table, *codes.shape, out_cols, *codes.stride(), packed, packs, 16, 512)
    return out


def _expanded(codes: Tensor, scale: Tensor, spec: Scheme, packed: bool, k: int, dtype: torch.dtype) -> Tensor:
    """[rows, k] values with the scales of their blocks."""
    out = codes.new_empty((codes.shape[0], k), dtype=dtype)
    block = block_of(spec)
    grid = (-(-codes.shape[0] // 16), -(-k // 512))
    if k:
        expand_kernel[grid](
            codes, scale, out, *codes.shape, k, -(-k // block), *codes.stride(), *_strides(scale),
            layout_of(spec.element), scale_layout(spec), packed, scale.dim() == 1, block, 16, 512,
        )  # fmt: skip
    return out


def _strides(scale: Tensor) -> tuple[int, int]:
    """Of a matrix of scales; tiles have none."""
    return (0, 1) if scale.dim() == 1 else (scale.stride(0), scale.stride(1))


def scale_layout(spec: Scheme) -> Layout | None:
    return layout_of(get("e4m3fn")) if spec.two_level else None


SIZES = (
    "M", "N", "K", "a_cols", "b_cols", "scale_cols", "stride_am", "stride_ak", "stride_bn", "stride_bk", "stride_om",
    "stride_asm", "stride_ask", "stride_bsn", "stride_bsk",
)  # fmt: skip


def arguments_of(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    out: Tensor, bias: Tensor | None, specs: tuple[Scheme, Scheme], packed: tuple[bool, bool], k: int, path: Path,
    config: Config, target: str,
) -> dict[str, Any]:  # fmt: skip
    """Every argument of the kernel by name."""
    block = block_of(specs[0])
    tensors: dict[str, Tensor | None] = {
        "a_ptr": a, "b_ptr": b, "out_ptr": out, "a_scale_ptr": a_scale, "b_scale_ptr": b_scale,
        "a_outer_ptr": a_outer, "b_outer_ptr": b_outer, "bias_ptr": bias,
    }  # fmt: skip
    numbers = (out.shape[0], out.shape[1], k, a.shape[1], b.shape[1], -(-k // block), *a.stride(), *b.stride(),
               out.stride(0), *_strides(a_scale), *_strides(b_scale))  # fmt: skip
    expanded = config.how == "expanded"
    if expanded:
        tensors |= {"a_scale_ptr": None, "b_scale_ptr": None}
    constants = {
        "A_FORMAT": path.a, "B_FORMAT": path.b, "A_F": layout_of(specs[0].element), "B_F": layout_of(specs[1].element),
        "S_F": scale_layout(specs[0]), "A_PACKED": packed[0] and not expanded, "B_PACKED": packed[1] and not expanded,
        "A_TILED": a_scale.dim() == 1, "B_TILED": b_scale.dim() == 1, "HOW": config.how,
        "OPERAND": tl.float32 if target == INTERPRETER else tl.bfloat16, "BLOCK": block, "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "GROUP_M": 8,
    }  # fmt: skip
    return {**tensors, **dict(zip(SIZES, numbers, strict=True)), **constants}


def launch(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    specs: tuple[Scheme, Scheme], packed: tuple[bool, bool], k: int, bias: Tensor | None, out_dtype: torch.dtype,
    config: Config | None = None,
) -> Tensor:  # fmt: skip
    """Runs the kernel on checked arguments; see kernels/block_gemm.py. packed: whether the codes of a and b are two a
    byte. config: the launch instead of the chosen one."""
    m, n = a.shape[0], b.shape[0]
    target = target_of(a.device)
    path = path_of(*specs, target)
    # Triton's interpreter truncates where it casts to bfloat16.
    out = a.new_empty((m, n), dtype=torch.float32 if target == INTERPRETER else out_dtype)
    if not (m and n):
        return out.to(out_dtype)
    bias = None if bias is None else bias.contiguous()
    if path.native:
        a, b = _fed(a, specs[0], packed[0], path.a, k), _fed(b, specs[1], packed[1], path.b, k)
        packed = path.a == "e2m1", path.b == "e2m1"

    def run(chosen: Config) -> None:
        x, y = a, b
        if chosen.how == "expanded":
            dtype = torch.float32 if target == INTERPRETER else torch.bfloat16
            x = _expanded(a, a_scale, specs[0], packed[0], k, dtype)
            y = _expanded(b, b_scale, specs[1], packed[1], k, dtype)
        arguments = arguments_of(x, a_scale, a_outer, y, b_scale, b_outer, out, bias, specs, packed, k, path, chosen,
                               target)  # fmt: skip
        grid = (-(-m // chosen.block_m) * -(-n // chosen.block_n),)
        block_gemm_kernel[grid](**arguments, num_warps=chosen.num_warps, num_stages=chosen.num_stages)

    if config is None:
        key = key_of(m, n, k, path, block_of(specs[0]), a_scale.dim() == 1)
        config = tuning.choose("block_scaled_gemm", key, lambda: candidates(path, target),
                               lambda c: seconds(c, m, n, k, path, target), run, a.device)  # fmt: skip
    run(config)
    return out.to(out_dtype)
