"""Two INT4 planes: see `narrowgauge.formats.stages.planes`."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.formats.stages import Draw, Planes
from narrowgauge.formats.stages.planes import HIGH, LARGEST_CODE


def plane_step(x: Tensor) -> Tensor:
    """s = amax / 119, float32 scalar: 1 for zeros, NaN where x is not finite."""
    amax = x.float().abs().amax()
    step = torch.clamp(amax / LARGEST_CODE, min=SMALLEST_SCALE)
    step = torch.where(amax == 0, 1.0, step)
    return torch.where(torch.isfinite(amax), step, torch.nan)


def planes_before(stage: Planes, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, tuple[float | Tensor, float]]:
    """x / s; memo: s."""
    if not x.numel():
        return x, (1.0, 0.0)
    step = plane_step(x)
    return x * torch.where(torch.isfinite(step), torch.reciprocal(step), 0.0), (step, 0.0)


def split(codes: Tensor) -> tuple[Tensor, Tensor]:
    """(hi, lo) of codes -119 … 119 in any dtype: codes = 16 · hi + lo, both in -8 … 7."""
    high = torch.floor_divide(codes + HIGH // 2, HIGH)
    return high, codes - HIGH * high
