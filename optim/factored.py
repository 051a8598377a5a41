"""Factored second moments (Adafactor, Shazeer & Stern, arXiv 1804.04235), as torch.optim.Adafactor computes them.

Of the last two axes of g [..., m, n], with ρ = t^decay (decay = -0.8):

    R ← R + ρ (mean over n of g² - R)   [..., m, 1]        C ← C + ρ (mean over m of g² - C)   [..., 1, n]
    V̂ = R C / max(mean of R, ε₁)        u = g / max(sqrt(V̂), ε₁)        u ← u / max(1, rms(u) / d)

Means in the place of the paper's sums, which leaves V̂ the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels.moments import SMALLEST_MAGNITUDE


def factor_shapes(shape: torch.Size) -> tuple[torch.Size, torch.Size]:
    """Shapes of R and C of a tensor of at least two axes."""
    return torch.Size((*shape[:-1], 1)), torch.Size((*shape[:-2], 1, shape[-1]))


def update_factors(row: Tensor, column: Tensor, g: Tensor, rate: float) -> None:
    """Moves float32 R and C towards the mean squares of float32 g, in place."""
    square = g.square()
    row.lerp_(square.mean(-1, keepdim=True), rate)
    column.lerp_(square.mean(-2, keepdim=True), rate)


def factored_estimate(row: Tensor, column: Tensor, eps: float) -> Tensor:
    """V̂ of R and C."""
    return row @ column / row.mean(-2, keepdim=True).clamp(min=eps)


def root_mean_square(x: Tensor) -> float:
    """sqrt(mean x²); 0 of an empty tensor."""
    return float(x.norm()) / x.numel() ** 0.5 if x.numel() else 0.0


def clipped_update(g: Tensor, estimate: Tensor, eps: float, threshold: float) -> Tensor:
    """u: the gradient over the root of its second moment, its root mean square not above `threshold` (d)."""
    # ε₁² may be below float32's range; where nothing has been seen 0 · ∞ would be NaN.
    u = g * estimate.clamp(min=max(eps * eps, SMALLEST_MAGNITUDE)).rsqrt()
    return u / max(1.0, root_mean_square(u) / threshold)
