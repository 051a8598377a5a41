"""A learned step (LSQ, arXiv 1902.08153) with its gradients, and an offset beside it (LSQ+, arXiv 2004.09576).

    v̂ = s · RN(clip((v − β) / s, n, p)) + β                    LSQ: β = 0
    ∂v̂/∂v = 1 inside n < (v − β)/s < p, 0 outside
    ∂v̂/∂s = RN((v − β)/s) − (v − β)/s inside, n below, p above
    ∂v̂/∂β = 0 inside, 1 outside
    the gradients of s and β are multiplied by a factor: 1 / √(N p), N the values that share s
    begin: s = 2 mean|v| / √p

Signed values of b bits: n = −2^(b−1), p = 2^(b−1) − 1; unsigned: n = 0, p = 2^b − 1. A step that the optimizer drives
below zero acts by its magnitude.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from narrowgauge.nn.straight_through import high_precision

SMALLEST_STEP = 1e-30


def signed_range(bits: int) -> tuple[int, int]:
    """(n, p) of signed integers of `bits` bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def positive(step: Tensor) -> Tensor:
    """The step as it acts: its magnitude, never 0."""
    return step.abs().clamp_min(SMALLEST_STEP)


def first_step(magnitude: Tensor, high: int) -> Tensor:
    """The step to begin with for values of that mean magnitude."""
    return positive(2 * magnitude / sqrt(high))


def step_factor(sharing: int, high: int) -> float:
    """What multiplies the gradient of a step that so many values share."""
    return 1.0 / sqrt(max(sharing, 1) * high)


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, step: Tensor, offset: Tensor | None, low: int, high: int, factor: float) -> Tensor:
        wide = high_precision(v)
        s = step.to(wide.dtype)
        beta = None if offset is None else offset.to(wide.dtype)
        y = (wide if beta is None else wide - beta) * (1.0 / s)
        ctx.save_for_backward(y, step, offset)
        ctx.settings = low, high, factor
        levels = y.clamp(low, high).round()
        values = levels * s if beta is None else levels * s + beta
        return values.to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        y, step, offset = ctx.saved_tensors
        low, high, factor = ctx.settings
        inside = (y > low) & (y < high)
        wide = grad.to(y.dtype)
        slope = torch.where(inside, y.round() - y, y.clamp(low, high))
        of_step = (wide * slope).sum_to_size(step.shape) * factor
        of_offset = None if offset is None else ((wide * ~inside).sum_to_size(offset.shape) * factor).to(offset.dtype)
        return grad * inside, of_step.to(step.dtype), of_offset, None, None, None


def lsq_quantize(
    v: Tensor, step: Tensor, low: int, high: int, factor: float = 1.0, offset: Tensor | None = None
) -> Tensor:
    """v̂ with LSQ's gradients for `v`, `step` (> 0) and `offset`, which broadcast against `v`; shape and dtype of `v`.

    factor multiplies the gradients of `step` and `offset`.
    """
    result: Tensor = _LearnedStep.apply(v, step, offset, low, high, factor)  # type: ignore[no-untyped-call]
    return result
