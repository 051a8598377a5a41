"""What a competitor of the suite `gemm` is: a call, what its result is held to, and what work it counts as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from narrowgauge.bench.gemm_check import Rounding, hopper_partial
from narrowgauge.bench.gemm_inputs import Inputs, Operands
from narrowgauge.formats import Scheme

FLOAT8 = "float8_e4m3fn"
FLOAT8_ELEMENTS = ("e4m3fn", "e5m2")
SHORT_SUMS = ((8, 9), (9, 0))
"""Compute capabilities whose float8 products are summed in 14 bits."""


@dataclass(frozen=True)
class Competitor:
    """call: gives y [M, N]. operands: whose product it is. dtypes: what y may be. bytes: of memory traffic at least.
    unit: the kind of product whose measured rate is its roof. held: tensors of its own that it must not write."""

    call: Callable[[], Tensor]
    operands: Operands
    rounding: Rounding
    dtypes: tuple[torch.dtype, ...]
    bytes: float
    unit: str
    note: str
    held: tuple[Tensor, ...] = field(default=())


Make = Callable[[Inputs], Competitor]
"""Inputs → the competitor on the numbers that are there now; ValueError with the reason where it cannot."""


def out_dtype(device: torch.device) -> torch.dtype:
    """What results are computed in: bfloat16, on a CPU float32."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def moved(*tensors: Tensor, out: int) -> float:
    """Bytes of the operands, each read once, and of `out` bytes of results."""
    return float(sum(tensor.nbytes for tensor in tensors) + out)


def out_bytes(inputs: Inputs, dtype: torch.dtype) -> int:
    """Bytes of a result."""
    return inputs.problem.m * inputs.problem.n * dtype.itemsize


def in_multiples(inputs: Inputs, n: int, k: int) -> None:
    """ValueError unless N and K are multiples of these."""
    if inputs.problem.n % n or inputs.problem.k % k:
        raise ValueError(f"takes N in multiples of {n} and K in multiples of {k}")


def matrix_unit(x: Scheme | None, w: Scheme | None, units: tuple[str, ...]) -> str:
    """Which of the measured kinds of products is the roof of operands under these schemes, None: not quantised."""
    names = [None if scheme is None else scheme.element.name for scheme in (x, w)]
    if FLOAT8 in units and all(name in FLOAT8_ELEMENTS for name in names):
        return FLOAT8
    if "int8" in units and names == ["int8", "int8"]:
        return "int8"
    return "bfloat16" if "bfloat16" in units else "float32"


def float8_rounding(device: torch.device, unit: str, k: int, promote_every: int | None) -> Rounding:
    """Float32 sums; of float8 products on Ada and Hopper, sums of 14 bits that go to float32 after `promote_every`."""
    if unit == FLOAT8 and torch.cuda.get_device_capability(device) in SHORT_SUMS:
        return Rounding(partial=hopper_partial(k, promote_every))
    return Rounding()
