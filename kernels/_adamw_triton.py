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
from narrowgauge.kernels.layout import layout_of, table_constants, table_signature
from narrowgauge.kernels.moments import MomentCodec, first_moment, second_moment
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.tables import table_blob

BLOCK = 1024
"""Elements of one program: a whole number of groups, eight elements a thread."""


@jit
def _adamw_kernel(p_ptr, g_ptr, m_ptr, m_scale_ptr, m_table_ptr, v_ptr, v_scale_ptr, v_table_ptr, n, decay, beta2,
                  weight1, weight2, step_size, root_correction, eps,
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
    m = load_moment(m_ptr, m_scale_ptr, m_table_ptr, pid, n, M, BLOCK, WIDTH)
    v = load_moment(v_ptr, v_scale_ptr, v_table_ptr, pid, n, V, BLOCK, WIDTH)
    m = m + weight1 * (g - m)
    v = beta2 * v + weight2 * g * g
    p = p * decay - step_size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), tl.zeros_like(v) + root_correction) + eps)
    if p_ptr.dtype.element_ty == tl.bfloat16:
        p = round_to_bfloat16(p)
    tl.store(p_ptr + offs, p.to(p_ptr.dtype.element_ty), mask=mask)
    store_moment(m, m_ptr, m_scale_ptr, m_table_ptr, pid, n, M, BLOCK, WIDTH)
    store_moment(v, v_ptr, v_scale_ptr, v_table_ptr, pid, n, V, BLOCK, WIDTH)


def _width(first: MomentCodec, second: MomentCodec) -> int:
    """Row length of a block: the larger group, or enough for wide loads where there are none."""
    return max(first.group, second.group, 128)


def _table(codec: MomentCodec, device: torch.device) -> Tensor | None:
    if codec.kind == "plain" or layout_of(codec.element).kind != "table":
        return None
    return table_blob(codec.element, device)


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
        p, g, m, m_scale, _table(first, p.device), v, v_scale, _table(second, p.device), count,
        1 - lr * weight_decay, beta2, 1 - beta1, 1 - beta2, lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, eps,
        M=moment_layout(first), V=moment_layout(second), MAXIMIZE=maximize, BLOCK=BLOCK,
        WIDTH=_width(first, second),
    )  # fmt: skip


_TRITON_TYPES = {torch.uint8: "*u8", torch.int8: "*i8", torch.float32: "*fp32", torch.bfloat16: "*bf16"}
_SCALARS = ("decay", "beta2", "weight1", "weight2", "step_size", "root_correction", "eps")


def compile_cases() -> Iterator[CompileCase]:
    """Every codec on float32 parameters, a scheme, and bfloat16 parameters and gradients."""
    names = ("coat", "fp8", "int8", "dynamic8", "bf16", "fp32")
    cases = [(name, name, "fp32") for name in names]
    for m_name, v_name, dtype in [*cases, ("nf4/1x128", "e4m3fnuz/1x64", "fp32"), ("coat", "coat", "bf16")]:
        first, second = first_moment(m_name), second_moment(v_name)
        signature = {"p_ptr": f"*{dtype}", "g_ptr": f"*{dtype}", "n": "i32"} | dict.fromkeys(_SCALARS, "fp32")
        constants: dict[str, object] = {"MAXIMIZE": False, "BLOCK": BLOCK, "WIDTH": _width(first, second)}
        for letter, codec in (("m", first), ("v", second)):
            layout = moment_layout(codec)
            signature[f"{letter}_ptr"] = _TRITON_TYPES[codec.dtype]
            if codec.columns:
                signature[f"{letter}_scale_ptr"] = "*fp32"
            else:
                constants[f"{letter}_scale_ptr"] = None
            signature |= table_signature(layout.element, f"{letter}_table_ptr")
            constants |= table_constants(layout.element, f"{letter}_table_ptr")
            constants[letter.upper()] = layout
        name = m_name if m_name == v_name else f"{m_name}, {v_name}"
        yield CompileCase(f"adamw_step {name} {dtype}", _adamw_kernel, signature, constants)
