"""Triton kernel of optimizer_step and its launch: one pass over the blocks of many tensors, in place, so there is no
autotuning (a second run would step twice). Rules: kernels/step_rules.py; stored moments: kernels/_moments_triton.py;
masters: kernels/step_rules.MASTERS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from narrowgauge.kernels import _cast
from narrowgauge.kernels._gemm_plan import target_of
from narrowgauge.kernels._moments_triton import (
    load_moment,
    moment_layout,
    places,
    store_moment,
    triton_type,
)
from narrowgauge.kernels._rules_triton import join_weight, key, number, settings, split_weight, update
from narrowgauge.kernels._step_checks import rule_codecs
from narrowgauge.kernels._step_table import FIELDS, grouped, rows_on, tables
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.kernels.layout import table_constants, table_signature
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.op import CompileCase
from narrowgauge.kernels.random_words import random_draws, random_halves
from narrowgauge.kernels.step_rules import MASTERS, ROW_LENGTH, RULES, Row
from narrowgauge.kernels.tables import table_blob

BLOCK = 1024
"""Elements that a program holds at a time: a whole number of groups, eight of aligned tensors for each thread."""
SPAN = 4 * BLOCK
"""Elements of a program, which share what it reads first."""
THREADS = 128
NARROWEST = 128
"""Elements of a row of a block, at least, which gives wide accesses where groups are small or there are none."""

_FIELDS, _ROW_LENGTH = constant(FIELDS), constant(ROW_LENGTH)
_P, _G, _M, _M_SCALE, _V, _V_SCALE, _RESIDUAL, _ELEMENTS, _FIRST, _ROW = (constant(i) for i in range(FIELDS))
_GRAD_SCALE, _M_KEY, _V_KEY, _P_KEY, _READ_M_KEY, _READ_V_KEY, _OFFSET = (
    constant(Row._fields.index(name)) for name in Row._fields[8:]
)


@jit
def _address(entry, FIELD: tl.constexpr, TYPE: tl.constexpr, place, ALIGNED: tl.constexpr):
    """Pointer to the element `place` (int64) of a tensor."""
    pointer = tl.load(entry + FIELD).to(tl.pointer_type(TYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + place


@jit
def _moment_addresses(entry, FIELD: tl.constexpr, place, C: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers to the codes and numbers of a moment (FIELD and the next) at the element `place`, the first of a group;
    None where there is no moment."""
    if C is None:
        return None, None
    else:
        return (
            _address(entry, FIELD, C.code, place // (2 if C.packed else 1), ALIGNED),
            _address(entry, FIELD + 1, C.scale, place // C.group * C.columns, ALIGNED),
        )


@jit
def step_kernel(tensors_ptr, owners_ptr, rows_ptr, m_table_ptr, v_table_ptr, RULE: tl.constexpr, P: tl.constexpr,
                G: tl.constexpr, M: tl.constexpr, V: tl.constexpr, MASTER: tl.constexpr, MAXIMIZE: tl.constexpr,
                SKIP: tl.constexpr, ALIGNED: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
                WIDTH: tl.constexpr):  # fmt: skip
    """Block by block: read, decode, step, encode, write. tensors_ptr, owners_ptr: see `_step_table`; M, V: layouts of
    the codecs, None for a state that the rule does not have; P, G: types of p and g."""
    ROWS: tl.constexpr = BLOCK // WIDTH
    pid = tl.program_id(0)
    entry = tensors_ptr + tl.load(owners_ptr + pid).to(tl.int64) * _FIELDS
    row = rows_ptr + tl.load(entry + _ROW) * _ROW_LENGTH
    first = (pid - tl.load(entry + _FIRST)) * SPAN
    count = tl.minimum(tl.load(entry + _ELEMENTS) - first, SPAN).to(tl.int32)
    if ALIGNED:
        count = tl.multiple_of(count, 16)
    p_start = _address(entry, _P, P, first, ALIGNED)
    g_start = _address(entry, _G, G, first, ALIGNED)
    m_start, m_scale_start = _moment_addresses(entry, _M, first, M, ALIGNED)
    v_start, v_scale_start = _moment_addresses(entry, _V, first, V, ALIGNED)
    residual_start = _address(entry, _RESIDUAL, tl.int8, first, ALIGNED)
    row_settings = settings(row)
    grad_scale = -number(row, _GRAD_SCALE) if MAXIMIZE else number(row, _GRAD_SCALE)
    m_key, v_key, p_key = key(row, _M_KEY), key(row, _V_KEY), key(row, _P_KEY)
    read_m_key, read_v_key = key(row, _READ_M_KEY), key(row, _READ_V_KEY)
    offset = tl.load(row + _OFFSET).to(tl.int64) + first
    # What does not change within the loop is cheap; kept in registers, it would leave fewer programs at a time.
    for place in tl.range(0, count, BLOCK, disable_licm=True):
        left = count - place
        start = offset + place
        offs = places(ROWS, WIDTH)
        mask = offs < left
        p_ptr = p_start + (place + offs)
        p = tl.load(p_ptr, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(g_start + (place + offs), mask=mask, other=0.0).to(tl.float32) * grad_scale
        if SKIP:
            g = tl.where(_cast.is_finite(g), g, 0.0)
        if MASTER == "residual":
            residual_ptr = residual_start + (place + offs)
            p = join_weight(p, tl.load(residual_ptr, mask=mask, other=0))
        m, v = p, p
        if V is not None:
            v_ptr = v_start + place // (2 if V.packed else 1)
            v_scale_ptr = v_scale_start + place // V.group * V.columns
            v, root, _ = load_moment(v_ptr, v_scale_ptr, v_table_ptr, left, start, read_v_key, V, BLOCK, WIDTH)
        if M is not None:
            m_ptr = m_start + place // (2 if M.packed else 1)
            m_scale_ptr = m_scale_start + place // M.group * M.columns
            m, _, _ = load_moment(m_ptr, m_scale_ptr, m_table_ptr, left, start, read_m_key, M, BLOCK, WIDTH)
            if M.whitened:
                m = m * root
        p, m, v = update(p, g, m, v, row_settings, RULE)
        if MASTER == "residual":
            p, residual = split_weight(p, random_draws(start, p_key, ROWS, WIDTH))
            tl.store(residual_ptr, residual.to(tl.int8), mask=mask)
        elif MASTER == "sr":
            p = _cast.round_to_bfloat16_by(p, random_halves(start, p_key, ROWS, WIDTH))
        elif tl.bfloat16 == P:
            p = _cast.round_to_bfloat16(p)
        tl.store(p_ptr, p.to(P), mask=mask)
        if V is not None:
            _, _, inverse = store_moment(v, v_ptr, v_scale_ptr, v_table_ptr, left, start, v_key, V, BLOCK, WIDTH)
        if M is not None:
            if M.whitened:
                m = m * inverse
            if RULE == "rmsprop_momentum":
                m = tl.where(mask, m, 0.0)  # 0 / (0 + 0) beyond the end, where eps is 0
            store_moment(m, m_ptr, m_scale_ptr, m_table_ptr, left, start, m_key, M, BLOCK, WIDTH)


def num_warps(warp_size: int, aligned: bool) -> int:
    """Warps of a program, on devices with warps of 32 threads (CUDA) or 64 (HIP)."""
    # Single elements make addresses and masks of each: half as many a thread, so that registers suffice.
    return (THREADS if aligned else 2 * THREADS) // warp_size


def launch_options(first: MomentCodec | None, second: MomentCodec | None, target: str) -> dict[str, int]:
    """Further options of the launch. For sm_120 the compiler takes 80 registers and spills four of them where tables of
    256 values are searched; told that 88 are allowed, it takes 80 and spills none."""
    elements = [moment_layout(codec).element for codec in (first, second) if codec is not None]
    searched = any(element is not None and element.kind == "table" and element.steps >= 8 for element in elements)
    return {"maxnreg": 88} if target == "sm_120" and searched else {}


def width_of(first: MomentCodec | None, second: MomentCodec | None) -> int:
    """Row length of a block: the larger group, or NARROWEST."""
    return max(NARROWEST, *(codec.group for codec in (first, second) if codec is not None))


def _table(codec: MomentCodec | None, device: torch.device) -> Tensor | None:
    element = moment_layout(codec).element if codec else None
    return table_blob(codec.element, device) if codec and element and element.kind == "table" else None


def constants(
    rule: str, p: torch.dtype, g: torch.dtype, first: MomentCodec | None, second: MomentCodec | None, master: str,
    maximize: bool, skip_nonfinite: bool, aligned: bool,
) -> dict[str, Any]:  # fmt: skip
    """The kernel's compile-time arguments."""
    return {
        "RULE": rule, "P": triton_type(p), "G": triton_type(g), "M": moment_layout(first) if first else None,
        "V": moment_layout(second) if second else None, "MASTER": master, "MAXIMIZE": maximize, "SKIP": skip_nonfinite,
        "ALIGNED": aligned, "SPAN": SPAN, "BLOCK": BLOCK, "WIDTH": width_of(first, second),
    }  # fmt: skip


def launch(
    rule: str, p: Sequence[Tensor], g: Sequence[Tensor], m: Sequence[Tensor], m_scale: Sequence[Tensor],
    v: Sequence[Tensor], v_scale: Sequence[Tensor], residual: Sequence[Tensor], first: MomentCodec | None,
    second: MomentCodec | None, master: str, rows: Tensor, maximize: bool, skip_nonfinite: bool,
) -> None:  # fmt: skip
    """One launch for all tensors of the same dtypes whose addresses and sizes are multiples of 16, one for the others.

    Flat, contiguous p and g, empty lists for what there is not; the arguments are those of the op, checked.
    """
    if not p:
        return
    device, warp_size = p[0].device, 64 if torch.version.hip else 32
    options = launch_options(first, second, target_of(device))
    resident = rows_on(rows, device)
    for (p_dtype, g_dtype, aligned), entries, programs in grouped((p, g, m, m_scale, v, v_scale, residual), SPAN):
        addresses, owners = tables(entries, programs, device)
        step_kernel[(sum(programs),)](
            addresses, owners, resident, _table(first, device), _table(second, device),
            **constants(rule, p_dtype, g_dtype, first, second, master, maximize, skip_nonfinite, aligned),
            num_warps=num_warps(warp_size, aligned), **options,
        )  # fmt: skip


CUDA_TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")
HIP_TARGETS = ("gfx942", "gfx950")


def _cases(name: str, rule: str, codecs: tuple[str, str], p: torch.dtype = torch.float32, master: str = "none",
           skip: bool = False, aligned: bool = True) -> Iterator[CompileCase]:  # fmt: skip
    has = RULES[rule]
    first, second = rule_codecs(rule, codecs[0] if has.first else "", codecs[1] if has.second else "")
    signature = {"tensors_ptr": "*i64", "owners_ptr": "*i32", "rows_ptr": "*fp64"}
    compiled = constants(rule, p, p, first, second, master, False, skip, aligned)
    for letter in "MV":
        element = compiled[letter].element if compiled[letter] else None
        signature |= table_signature(element, f"{letter.lower()}_table_ptr")
        compiled |= table_constants(element, f"{letter.lower()}_table_ptr")
    # p and g, read by 16 bytes: what the addresses' alignment is for.
    expect = tuple((target, "ld.global.v4.b32") for target in CUDA_TARGETS if aligned)
    case = CompileCase(
        f"optimizer_step {name}",
        step_kernel,
        signature,
        compiled,
        num_warps(32, aligned),
        expect=expect,
        targets=CUDA_TARGETS,
        load_bytes=16 if aligned else 4,
    )
    for target in CUDA_TARGETS:
        yield replace(case, options=tuple(launch_options(first, second, target).items()), targets=(target,))
    yield replace(case, num_warps=num_warps(64, aligned), expect=(), targets=HIP_TARGETS)


def compile_cases() -> Iterator[CompileCase]:
    """Every fused codec under AdamW, every rule, masters, flags, and tensors that allow no wide access."""
    for name, (_, second) in CODECS.items():
        if second.fused:
            yield from _cases(f"adamw {name}", "adamw", (name, name))
    yield from _cases("adamw nf4/1x128, e4m3fnuz/1x64", "adamw", ("nf4/1x128", "e4m3fnuz/1x64"))
    yield from _cases("adamw log8, coat", "adamw", ("log8", "coat"))
    for rule in RULES:
        yield from _cases(f"{rule} log8 skipping", rule, ("log8", "log8"), skip=True)
    yield from _cases("lion log4", "lion", ("log4", "log4"))
    for master in MASTERS:
        for name in ("log8", "log4", "coat"):
            yield from _cases(f"adamw {name} bf16 {master}", "adamw", (name, name), torch.bfloat16, master)
    yield from _cases("adamw log8 unaligned", "adamw", ("log8", "log8"), aligned=False)
