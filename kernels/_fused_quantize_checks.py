"""What fused_quantize takes: TypeError or ValueError that names the argument, what it got and what is accepted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels.prologues import Prologue, get_prologue
from narrowgauge.kernels.prologues.rms_norm import SMALLEST_EPS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_call(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, eps: float
) -> Prologue:
    """The prologue of a call that it may have."""
    chosen = get_prologue(prologue)
    _check_dtype("x", x)
    if x.dim() == 0:
        raise ValueError(f"x: {prologue} works along the last axis, got a tensor without axes")
    _check_other(x, other, chosen)
    if weight is not None:
        _check_weight(weight, x.shape[-1], x.device, chosen)
    if chosen.whole_rows and not (eps >= SMALLEST_EPS and math.isfinite(eps)):
        raise ValueError(f"eps: {prologue} takes a finite number of at least {SMALLEST_EPS:g}, got {eps}")
    parse(scheme)
    return chosen


def _check_dtype(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name}: expected dtype {names}, got {str(x.dtype).removeprefix('torch.')}")


def _check_other(x: Tensor, other: Tensor | None, prologue: Prologue) -> None:
    if other is None:
        if prologue.takes_other:
            raise ValueError(f"other: {prologue.name} needs one, {prologue.formula}; got None")
        return
    if not prologue.takes_other:
        raise ValueError(f"other: {prologue.name} takes none, got a tensor of shape {tuple(other.shape)}")
    if other.shape != x.shape or other.dtype != x.dtype or other.device != x.device:
        raise ValueError(
            f"other: expected the shape {tuple(x.shape)}, dtype {x.dtype} and device {x.device} of x, "
            f"got {tuple(other.shape)}, {other.dtype}, {other.device}"
        )


def _check_weight(weight: Tensor, columns: int, device: torch.device, prologue: Prologue) -> None:
    if not prologue.weighted:
        raise ValueError(f"weight: {prologue.name} takes none, got a tensor of shape {tuple(weight.shape)}")
    name = "signs" if prologue.weighted == "signs" else "weight"
    _check_dtype(name, weight)
    # No sets: compilers' sizes have no hash.
    accepted = (columns, prologue.block) if prologue.weighted == "signs" else (columns,)
    if weight.dim() != 1 or weight.device != device or all(weight.shape[0] != size for size in accepted):
        shapes = " or ".join(f"[{size}]" for size in accepted)
        raise ValueError(
            f"{name}: {prologue.name} of {columns} columns takes {shapes} on {device}, "
            f"got {tuple(weight.shape)} on {weight.device}"
        )
