"""The clipping range [lo, hi] of each group with the least squared error, asymmetric, by search.

    lo = a · min x,  hi = b · max x,   a, b in 1, 0.95, …, 0.55;   argmin Σ h (x − x̂(lo, hi))²

h weighs the inputs of a layer: 1, or the mean square of each input feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RATIOS = tuple(1.0 - 0.05 * i for i in range(10))


def search_range(
    x: Tensor, quantized: Callable[[Tensor, Tensor], Tensor], importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(lo, hi), each [..., 1], for groups `x` [..., n]. quantized(lo, hi) gives x̂ [..., n]; importance broadcasts
    against `x`. Equal errors keep the wider range."""
    least, most = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    best_low, best_high = least, most
    best: Tensor | None = None
    for a in RATIOS:
        for b in RATIOS:
            low, high = least * a, most * b
            squared = (quantized(low, high) - x).square()
            error = (squared if importance is None else squared * importance).sum(-1, keepdim=True)
            if best is None:
                best = error
                continue
            better = error < best
            best = torch.where(better, error, best)
            best_low, best_high = torch.where(better, low, best_low), torch.where(better, high, best_high)
    return best_low, best_high
