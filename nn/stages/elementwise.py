"""Gain, shift and outlier clamping: see their files in `narrowgauge.formats.stages`."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.stages import Draw, Gain, Outliers, Shift

Memo = tuple[float, float | Tensor]


def gain_before(stage: Gain, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """G·x; memo: 1 / G."""
    return x * stage.gain, (1.0 / stage.gain, 0.0)


def shift_before(stage: Shift, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """x - lo; memo: lo."""
    if not x.numel():
        return x, (1.0, 0.0)
    low = x.amin(dim=-1, keepdim=True) if scheme.tile[0] == 1 else x.amin()
    return x - low, (1.0, low)


def outliers_before(stage: Outliers, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """x clamped to its quantiles; memo: the rest."""
    if not x.numel():
        return x, (1.0, 0.0)
    low, high = (torch.kthvalue(x.flatten(), rank).values for rank in stage.ranks(x.numel()))
    inside = torch.clamp(x, low, high)
    return inside, (1.0, x - inside)
