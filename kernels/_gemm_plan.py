"""How a scaled GEMM computes on a target: what its tensor cores are fed with, how long a partial sum may be. Pure
functions; `kernels/_gemm_config.py` chooses tiles.

Four kinds of operands (`Plan.operand`):
  fp8         the codes are the target's own fp8 type and go to the tensor core as they are
  int8        the same for signed integers, with int32 sums
  fp16, bf16  codes are decoded in registers to a type that holds every value of the format exactly
  fp32        the same for values that neither holds (most codebooks): on CUDA as three bfloat16 each, in six products
              (bf16x6, products good to 2^-22), on CDNA by its float32 instructions

Hopper's fp8 tensor cores add with about 14 significant bits (DeepSeek-V3, arXiv 2412.19437 §3.3.2), and Ada's and
consumer Blackwell's are taken to do the same, so no sum there is longer than PROMOTE_EVERY products before it is added
in float32: with K-blocks by the block itself, else on Hopper by `max_num_imprecise_acc` ("wgmma"), on the others, where
that option has no effect, by a product of its own for every step ("sum").
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

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
INTERPRETER = "interpreter"

_OCP = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
_FNUZ = {"e4m3fnuz": torch.float8_e4m3fnuz, "e5m2fnuz": torch.float8_e5m2fnuz}
NATIVE_FP8 = {
    "sm_89": _OCP, "sm_90": _OCP, "sm_100": _OCP, "sm_103": _OCP, "sm_120": _OCP, "sm_121": _OCP, "gfx942": _FNUZ,
    "gfx950": _OCP,
}  # fmt: skip
"""Target → format → dtype that its tensor cores multiply with sums that are float32, or promoted to it in time."""
PROMOTED = {"sm_89": "sum", "sm_90": "wgmma", "sm_120": "sum", "sm_121": "sum"}
"""Targets whose fp8 sums are short of digits, and how their partial sums are promoted."""


class Plan(NamedTuple):
    """How a product computes. operand: "fp8", "int8", "fp16", "bf16" or "fp32". promote: how partial sums are promoted,
    "" where they need not be, or are by their K-block. precision: Triton's `input_precision`, which counts for "fp32".
    """

    operand: str
    promote: str
    precision: str


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


def plan(a: Scheme, b: Scheme, target: str) -> Plan:
    """How a product under the two schemes computes on `target` ("sm_90", "gfx942", …, or the interpreter)."""
    operand = operand_type(a.element, b.element, target)
    blocks = scale_columns(a.factor_tile, b.factor_tile) > 0
    return Plan(
        operand=operand,
        promote=PROMOTED.get(target, "") if operand == "fp8" and not blocks else "",
        precision="bf16x6" if target.startswith("sm_") else "ieee",
    )


def target_of(device: torch.device) -> str:
    """Name of the device's architecture as `plan` takes it; the interpreter's for a CPU."""
    if device.type != "cuda":
        return INTERPRETER
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
