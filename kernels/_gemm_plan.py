"""How a scaled GEMM runs on a target: what its tensor cores are fed with, and the tile. Pure functions.

Four kinds of operands (`Plan.operand`):
  fp8         the codes are the target's own fp8 type and go to the tensor core as they are
  int8        the same for signed integers, with int32 sums
  fp16, bf16  codes are decoded in registers to a type that holds every value of the format exactly
  fp32        the same for values that neither holds (most codebooks): on CUDA as three bfloat16 each, in six products
              (bf16x6, products good to 2^-22), on CDNA by its float32 instructions

Hopper's fp8 tensor cores add with about 14 significant bits (DeepSeek-V3, arXiv 2412.19437 §3.3.2), so no sum there is
longer than PROMOTE_EVERY products before it is added in float32: `max_num_imprecise_acc` sees to it with epilogue
scales, the K-block itself otherwise. Ada and consumer Blackwell add alike, but Triton has no such promotion for them:
they decode to fp16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from narrowgauge.formats import Format, Scheme
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels.layout import layout_of

PROMOTE_EVERY = 128
"""Products of one partial sum, at most, before it joins the float32 accumulator."""
MIN_BLOCK_K = 32
"""Columns of the narrowest tile, what one instruction on 8-bit operands takes."""
FEW_TILES = 128
"""With fewer 128x128 tiles than this, narrower ones keep more of a large GPU's multiprocessors busy."""
INTERPRETER = "interpreter"

_OCP = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
_FNUZ = {"e4m3fnuz": torch.float8_e4m3fnuz, "e5m2fnuz": torch.float8_e5m2fnuz}
NATIVE_FP8 = {"sm_90": _OCP, "sm_100": _OCP, "sm_103": _OCP, "gfx942": _FNUZ, "gfx950": _OCP}
"""Target → format → dtype that its tensor cores multiply with sums that are float32, or promoted to it in time."""


@dataclass(frozen=True)
class Plan:
    """How a product runs. operand: "fp8", "int8", "fp16", "bf16" or "fp32". promote: whether partial sums need
    `max_num_imprecise_acc`. precision: Triton's `input_precision`, which counts for "fp32". The rest is the kernel's
    tile and Triton's launch options."""

    operand: str
    promote: bool
    precision: str
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def scale_columns(a: Tile, b: Tile) -> int:
    """Columns over which both scales are constant, 0 for all of them. The wider K-block is a multiple of the other."""
    return min((tile[1] for tile in (a, b) if tile[1] is not None), default=0)


@lru_cache(maxsize=256)
def operand_type(a: Format, b: Format, target: str) -> str:
    """What the tensor core of `target` is fed with; see `Plan`."""
    if layout_of(a).kind == "int":
        return "int8"
    native = NATIVE_FP8.get(target, {})
    if a.name in native and b.name in native:
        return "fp8"
    values = np.concatenate([a.values(), b.values()])
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        if np.array_equal(finite.astype(np.float16).astype(np.float64), finite):
            return "fp16"
    # The interpreter cannot multiply bfloat16.
    return "bf16" if target != INTERPRETER and _fits_bfloat16(finite) else "fp32"


def _fits_bfloat16(values: NDArray[np.float64]) -> bool:
    """Whether eight significant bits and the exponents of float32 hold every value."""
    return not (values.astype(np.float32).view(np.int32) & 0xFFFF).any()


def plan(m: int, n: int, a: Scheme, b: Scheme, target: str) -> Plan:
    """How a product of m rows and n columns runs on `target` ("sm_90", "gfx942", …, or the interpreter)."""
    operand = operand_type(a.element, b.element, target)
    columns = scale_columns(a.factor_tile, b.factor_tile)
    decoded = operand not in ("fp8", "int8")
    amd = target.startswith("gfx")
    # Without wgmma or tcgen05 operands and sums all live in registers, beside the work of decoding and scaling.
    in_registers = not target.startswith(("sm_9", "sm_10")) or (operand == "int8" and target != "sm_90")
    crowded = decoded or (columns > 0 if in_registers else _per_row(b.factor_tile))
    few = -(-m // 128) * -(-n // 128) < FEW_TILES
    # Three bfloat16 of every operand are held beside it.
    heavy = operand == "fp32" and in_registers
    block_m = 64 if m <= 64 else 128
    block_k = PROMOTE_EVERY
    if decoded or (in_registers and columns):
        block_k = 32 if in_registers and decoded else 64
    if columns:
        block_k = max(MIN_BLOCK_K, min(block_k, 1 << (columns - 1).bit_length()))
    return Plan(
        operand=operand,
        precision="bf16x6" if target.startswith("sm_") else "ieee",
        promote=operand == "fp8" and target == "sm_90" and columns == 0,
        block_m=block_m,
        block_n=32 if heavy else 64 if crowded or few else 128,
        block_k=block_k,
        num_warps=8 if block_m == 128 else 4,
        num_stages=2 if amd or (in_registers and decoded) else 4 if target.startswith("sm_9") else 3,
    )


def _per_row(tile: Tile) -> bool:
    """Whether every partial sum of a block of 128 rows has its row's scale."""
    height, width = tile
    return width is not None and height is not None and height % 128 > 0


def target_of(device: torch.device) -> str:
    """Name of the device's architecture as `plan` takes it; the interpreter's for a CPU."""
    if device.type != "cuda":
        return INTERPRETER
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
