"""Triton kernel of adamw_step, its launch and its ahead-of-time compilations: one pass over flat blocks, in place, so
there is no autotuning (a second run would step twice)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from narrowgauge.kernels._moments_triton import (
    block_offsets,
    load_moment,
    moment_layout,
    round_to_bfloat16,
    store_moment,
)
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.codebooks import thresholds
from narrowgauge.kernels.moments import MomentCodec, codebook_values, first_moment, second_moment
from narrowgauge.kernels.op import CompileCase

BLOCK = 1024
"""Elements of one program: a whole number of groups, eight elements a thread."""


@jit
def _adamw_kernel(p_ptr, g_ptr, m_ptr, m_scale_ptr, m_values_ptr, m_bounds_ptr, v_ptr, v_scale_ptr, v_values_ptr,
                  v_bounds_ptr, n, decay, beta2, weight1, weight2, step_size, root_correction, eps,
                  M: tl.constexpr, V: tl.constexpr, MAXIMIZE: tl.constexpr, BLOCK: tl.constexpr,
                  WIDTH: tl.constexpr):  # fmt: skip
    """Block by block: read, decode, step, encode, write. weight1 = 1 - beta1, weight2 = 1 - beta2."""
    tl.static_assert(BLOCK % M.group == 0 and BLOCK % V.group == 0)
    pid = tl.program_id(0).to(tl.int64)
    offs = block_offsets(pid, BLOCK, WIDTH)
    mask = offs < n
    p = tl.load(p_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if MAXIMIZE:
        g = 0.0 - g
    m = load_moment(m_ptr, m_scale_ptr, m_values_ptr, pid, n, M, BLOCK, WIDTH)
    v = load_moment(v_ptr, v_scale_ptr, v_values_ptr, pid, n, V, BLOCK, WIDTH)
    m = m + weight1 * (g - m)
    v = beta2 * v + weight2 * g * g
    p = p * decay - step_size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), tl.zeros_like(v) + root_correction) + eps)
    if p_ptr.dtype.element_ty == tl.bfloat16:
        p = round_to_bfloat16(p)
    tl.store(p_ptr + offs, p.to(p_ptr.dtype.element_ty), mask=mask)
    store_moment(m, m_ptr, m_scale_ptr, m_bounds_ptr, pid, n, M, BLOCK, WIDTH)
    store_moment(v, v_ptr, v_scale_ptr, v_bounds_ptr, pid, n, V, BLOCK, WIDTH)


def _width(first: MomentCodec, second: MomentCodec) -> int:
    """Row length of a block: the larger group, or enough for wide loads where there are none."""
    return max(first.group, second.group, 128)


def _tables(codec: MomentCodec, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    if codec.kind != "codebook":
        return None, None
    return codebook_values(codec.format, device), thresholds(codec.format, device)


def launch(
    p: Tensor, g: Tensor, m: Tensor, m_scale: Tensor | None, v: Tensor, v_scale: Tensor | None,
    first: MomentCodec, second: MomentCodec, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, maximize: bool,
) -> None:  # fmt: skip
    """One launch for flat, contiguous p and g; the other arguments are those of the op, checked."""
    count = p.numel()
    if not count:
        return
    _adamw_kernel[(triton.cdiv(count, BLOCK),)](
        p, g, m, m_scale, *_tables(first, p.device), v, v_scale, *_tables(second, p.device), count,
        1 - lr * weight_decay, beta2, 1 - beta1, 1 - beta2, lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, eps,
        M=moment_layout(first), V=moment_layout(second), MAXIMIZE=maximize, BLOCK=BLOCK,
        WIDTH=_width(first, second),
    )  # fmt: skip


_TRITON_TYPES = {torch.uint8: "*u8", torch.int8: "*i8", torch.float32: "*fp32", torch.bfloat16: "*bf16"}
_SCALARS = ("decay", "beta2", "weight1", "weight2", "step_size", "root_correction", "eps")


def compile_cases() -> Iterator[CompileCase]:
    """Every codec on float32 parameters, and bfloat16 parameters and gradients."""
    cases = [(name, "fp32") for name in ("coat", "fp8", "int8", "dynamic8", "bf16", "fp32")]
    for name, dtype in [*cases, ("coat", "bf16")]:
        signature = {"p_ptr": f"*{dtype}", "g_ptr": f"*{dtype}", "n": "i32"} | dict.fromkeys(_SCALARS, "fp32")
        width = _width(first_moment(name), second_moment(name))
        constants: dict[str, object] = {"MAXIMIZE": False, "BLOCK": BLOCK, "WIDTH": width}
        for letter, codec in (("m", first_moment(name)), ("v", second_moment(name))):
            signature[f"{letter}_ptr"] = _TRITON_TYPES[codec.dtype]
            present = {"scale": bool(codec.columns), "values": codec.kind == "codebook"}
            present["bounds"] = present["values"]
            for role, used in present.items():
                if used:
                    signature[f"{letter}_{role}_ptr"] = "*fp32"
                else:
                    constants[f"{letter}_{role}_ptr"] = None
            constants[letter.upper()] = moment_layout(codec)
        yield CompileCase(f"adamw_step {name} {dtype}", _adamw_kernel, signature, constants)
