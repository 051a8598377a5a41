"""How fused_quantize cuts a tensor into programs, and what its kernels know of a prologue at compile time. Pure
functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from narrowgauge.formats import Scheme
from narrowgauge.kernels._quantize_plan import Tiling, ceil_pow2, tiling, torch_scales
from narrowgauge.kernels.prologues import Prologue

HELD = 16384
"""Elements that one program holds in registers, at most: whole rows, or whole tiles."""
USUAL = 2048
"""Elements of a program that need not hold more."""
NARROWEST = 64
"""Columns of a block, where there are so many: whole sectors of memory."""
PER_THREAD = 16
LOOPED = 4096
"""Columns at a time of the launch that finds the norms of longer rows."""
_ROUNDINGS = {torch.float32: "none", torch.bfloat16: "bf16", torch.float16: "fp16"}


class PrologueLayout(NamedTuple):
    """One compile-time constant. norm: "none", "inside" (from the program's own whole rows) or "given" (an earlier
    launch's). period: after how many columns the weight repeats, 0 for never, -1 without one. rounding: of the dtype of
    x. keeps: whether values are written."""

    kind: str
    block: int
    adds: bool
    gated: bool
    norm: str
    period: int
    rounding: str
    keeps: bool


@dataclass(frozen=True)
class FusedPlan:
    """Block of one program. fused: it holds whole tiles; else maxima, scales and codes are launches of their own."""

    fused: bool
    block_m: int
    block_k: int
    tiling: Tiling
    norm: str
    num_warps: int


def fused_plan(rows: int, width: int, spec: Scheme, prologue: Prologue) -> FusedPlan:
    """How a result of [rows, width] is cut."""
    norm, narrowest = "none", max(prologue.block, min(ceil_pow2(width), NARROWEST))
    if prologue.whole_rows:
        norm = "inside" if width <= HELD else "given"
        narrowest = ceil_pow2(width) if norm == "inside" else NARROWEST
    tall, wide = _whole_tile(rows, width, spec)
    fused = tall * max(wide, narrowest) <= HELD
    if not fused:
        tall, wide = 1, 1
    block_k = max(wide, narrowest, min(ceil_pow2(width), 512))
    block_k = max(wide, narrowest) if tall * block_k > HELD else block_k
    block_m = max(tall, min(ceil_pow2(rows), max(1, USUAL // block_k)))
    warps = min(16, max(4, block_m * block_k // PER_THREAD // 32))
    return FusedPlan(
        fused, block_m, block_k, tiling((rows, width), spec.factor_tile, block_m, block_k), norm, warps
    )  # fmt: skip


def _whole_tile(rows: int, width: int, spec: Scheme) -> tuple[int, int]:
    """Sides, powers of two, of the smallest block that holds whole tiles; beyond HELD where there is none."""
    none = 2 * HELD, 1
    if torch_scales(spec):
        return none
    sides = [
        size if side is None else min(side, size) for side, size in zip(spec.factor_tile, (rows, width), strict=True)
    ]
    powers = [ceil_pow2(side) for side in sides]
    exact = all(p == side or side == size for p, side, size in zip(powers, sides, (rows, width), strict=True))
    return (powers[0], powers[1]) if exact else none


def prologue_layout(
    prologue: Prologue, norm: str, dtype: torch.dtype, columns: int, weights: int | None, keeps: bool
) -> PrologueLayout:
    """weights: how many the weight has, None without one."""
    period = -1 if weights is None else 0 if weights == columns else weights
    return PrologueLayout(
        prologue.kind, prologue.block, prologue.adds, prologue.gated, norm, period, _ROUNDINGS[dtype], keeps
    )
