"""The shift and squeeze of S2FP8: see `narrowgauge.formats.stages.squeeze`; logarithms and powers in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.s2fp8 import LARGEST_ALPHA, LARGEST_EXPONENT
from narrowgauge.formats.stages import Draw, Squeeze

Memo = tuple[Tensor, Tensor]


def squeeze_before(stage: Squeeze, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """sign(x) · 2^β · |x|^α; memo: α, β."""
    wide = x.double()
    logs = wide.abs().log2_()  # -inf for zeros: they are in no maximum, and come out as the zeros that they are
    count = torch.count_nonzero(x)
    empty = count == 0
    mean = logs.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=0.0).sum() / count
    top = logs.max() if x.numel() else mean
    alpha = LARGEST_EXPONENT / torch.clamp(top - mean, min=LARGEST_EXPONENT / LARGEST_ALPHA)
    beta = -alpha * mean
    alpha, beta = torch.where(empty, 1.0, alpha), torch.where(empty, 0.0, beta)
    finite = (top < torch.inf) | empty
    alpha, beta = torch.where(finite, alpha, torch.nan), torch.where(finite, beta, torch.nan)
    magnitude = logs.add_(beta / alpha).mul_(alpha).exp2_()
    return torch.copysign(magnitude, wide).float(), (alpha, beta)


def squeeze_after(stage: Squeeze, values: Tensor, memo: Memo) -> Tensor:
    """sign(y) · (2^-β · |y|)^(1/α)."""
    alpha, beta = memo
    wide = values.double()
    magnitude = wide.abs().log2_().sub_(beta).div_(alpha).exp2_()
    return torch.copysign(magnitude, wide).float()
