"""Straight-through estimators: quantised values forward, a chosen gradient backward.

    forward   x̂ (any values, computed elsewhere)
    backward  ∂L/∂x = ∂L/∂x̂ · multiplier        multiplier: nothing (identity), a 0/1 mask (clipped), or a shape

Bengio, Léonard and Courville, arXiv 1308.3432.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, multiplier: Tensor | None) -> Tensor:
        ctx.save_for_backward(multiplier)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        (multiplier,) = ctx.saved_tensors
        return grad if multiplier is None else (grad * multiplier).to(grad.dtype), None, None


def straight_through(x: Tensor, values: Tensor, multiplier: Tensor | None = None) -> Tensor:
    """`values` with the gradient of `x`, times `multiplier` where one is given. All of one shape; `values` has the
    dtype of `x`."""
    result: Tensor = _StraightThrough.apply(x, values, multiplier)  # type: ignore[no-untyped-call]
    return result


def high_precision(x: Tensor) -> Tensor:
    """`x` as quantisers compute with it: float64 stays, every other dtype becomes float32."""
    return x if x.dtype == torch.float64 else x.float()
