"""p ← p - update for a whole tensor, in the three ways of kernels/step_rules.MASTERS; the fused step does the same.

`sr`: w' = p - update in float32 lies between two neighbours in bfloat16; the one of larger magnitude is taken with the
probability that the 16 bits below it say, so that p' is w' on average. `residual`: the weight is p and what an int8
says in 127ths of half an ulp of p, rounded stochastically itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels._draws_torch import draws
from narrowgauge.kernels._masters_torch import HALF_ULP, LARGEST_POWER, RESIDUAL_STEPS, SMALLEST_POWER

_HALF = 1 << 16
_EXPONENT = 0x7F800000


def half_ulp(p: Tensor) -> Tensor:
    """Half the distance of bfloat16 numbers around p (float32 holding bfloat16 values), float32."""
    power = (p.contiguous().view(torch.int32) & _EXPONENT).view(torch.float32)
    return power.clamp_(SMALLEST_POWER, LARGEST_POWER).mul_(HALF_ULP)


def round_stochastically(w: Tensor, u: Tensor) -> Tensor:
    """float32 w rounded to bfloat16 by the draws u; infinities and NaN stay."""
    bits = w.contiguous().view(torch.int32)
    up = (bits & (_HALF - 1)).float() + u * _HALF >= _HALF
    rounded = ((bits & -_HALF) + (up.int() << 16)).view(torch.float32)
    return torch.where(torch.isfinite(w), rounded, w).bfloat16()


def with_residual(p: Tensor, residual: Tensor) -> Tensor:
    """The weight that a bfloat16 parameter and its int8 residual stand for, float32."""
    wide = p.float()
    return wide + residual.float() / RESIDUAL_STEPS * half_ulp(wide)


def split(w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(bfloat16, int8 residual) of float32 weights, by the draws u."""
    p = w.bfloat16()
    wide = p.float()
    # What is not finite, or became so by rounding, leaves nothing.
    rest = ((w - wide) / half_ulp(wide)).nan_to_num_(0.0, 0.0, 0.0).clamp_(-1.0, 1.0)
    return p, (rest * RESIDUAL_STEPS + u).floor_().to(torch.int8)


def subtract(p: Tensor, update: Tensor, master: str, residual: Tensor | None, key: int, offset: int) -> None:
    """p ← p - update in place; p: any strides; update: float32 of its shape; residual: int8, written, for "residual".

    key, offset: of the stream of this step's weight rounding (kernels/random_words.py).
    """
    if master == "none":
        p.copy_(p.float() - update)
        return
    u = draws(p.numel(), key, offset, p.device).view(p.shape)
    if master == "sr":
        p.copy_(round_stochastically(p.float() - update, u))
        return
    if residual is None:
        raise ValueError("residual: master='residual' has an int8 residual for every parameter, got none")
    stepped, rest = split(with_residual(p, residual) - update, u)
    p.copy_(stepped)
    residual.copy_(rest)
