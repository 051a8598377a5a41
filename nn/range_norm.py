"""`RangeBatchNorm`: batch normalisation by the range in place of the standard deviation (Banner et al., arXiv
1805.11046, section 3).

    σ ≈ (max x - min x) / (2 √(2 ln n))        n values of a feature: what the range of n normal values is, nearly

Maximum and minimum need no sum of squares, so that the normalisation stands 8-bit inputs.
"""

from __future__ import annotations

from math import log, sqrt

import torch
from torch import Tensor, nn


class RangeBatchNorm(nn.Module):
    """Over all axes but the feature's: input [T, features] or [batch, features, ...], output of its shape and dtype.

    eps: added to σ. momentum: of the running mean and σ, which evaluation uses. affine: whether a learned scale and
    shift follow. ValueError for other shapes, and for fewer than two values of a feature in training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__()
        self.features, self.eps, self.momentum = features, eps, momentum
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.features:
            raise ValueError(f"x: expected [T, {self.features}] or [batch, {self.features}, ...], got {tuple(x.shape)}")
        flat = (x if x.dtype == torch.float64 else x.float()).movedim(1, -1)
        if self.training:
            values = flat.reshape(-1, self.features)
            count = values.shape[0]
            if count < 2:
                raise ValueError(f"x: expected two or more values of a feature in training, got {count}")
            mean = values.mean(0)
            deviation = (values.amax(0) - values.amin(0)) / (2.0 * sqrt(2.0 * log(count)))
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
                self.deviation.lerp_(deviation.to(self.deviation.dtype), self.momentum)
        else:
            mean, deviation = self.mean, self.deviation
        y = (flat - mean) / (deviation + self.eps)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight + self.bias
        return y.movedim(-1, 1).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.features}, eps={self.eps}, momentum={self.momentum}"
