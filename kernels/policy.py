"""What `quantize` does with NaN and infinity."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from narrowgauge.formats import Scheme


class NonFinite(StrEnum):
    """See `narrowgauge.quantize`."""

    PROPAGATE = "propagate"
    SATURATE = "saturate"
    RAISE = "raise"


def raise_if_not_finite(x: Tensor) -> None:
    """ValueError that counts the NaN and infinities of x."""
    if not torch.isfinite(x).all():
        nans, infs = int(torch.isnan(x).sum()), int(torch.isinf(x).sum())
        raise ValueError(f"x: {nans} NaN and {infs} infinite of {x.numel()} values, and nonfinite='raise'")


def apply_saturation(codes: Tensor, x: Tensor, spec: Scheme) -> Tensor:
    """Codes with the infinities of x set to the largest code of their sign."""
    element = spec.element
    largest, smallest = (int(code) for code in element.encode([element.max, element.min]))
    codes = torch.where(x == torch.inf, largest, codes)
    return torch.where(x == -torch.inf, smallest, codes).to(codes.dtype)
