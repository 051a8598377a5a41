"""Block Householder in torch: see `narrowgauge.formats.stages.householder`; the groups are found by the definition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.stages import Draw, Householder
from narrowgauge.formats.stages.householder import row_groups


class RowGroups(NamedTuple):
    """The definition's groups as tensors; root, step and scale are float64 [n, 1]."""

    rows: Tensor
    first: Tensor
    root: Tensor
    small: Tensor
    step: Tensor
    scale: Tensor
    levels: list[tuple[Tensor, Tensor]]


def _groups(ranges: Tensor) -> RowGroups:
    device = ranges.device
    found = row_groups(ranges.cpu().numpy())
    root, small = (torch.from_numpy(part).to(device).unsqueeze(1) for part in (found.root, found.small))
    levels = [(torch.from_numpy(into).to(device), torch.from_numpy(source).to(device)) for into, source in found.levels]
    step = torch.where(small, root - 1.0, 1.0)
    scale = torch.from_numpy(found.scale).to(device).unsqueeze(1)
    rows, first = (torch.from_numpy(part).to(device) for part in (found.rows, found.first))
    return RowGroups(rows, first, root, small, step, scale, levels)


def _reflected(z: Tensor, groups: RowGroups) -> Tensor:
    """H z, float64, rows in the order of their groups."""
    sums = z.clone()
    for into, source in groups.levels:
        sums[into] = sums[into] + sums[source]
    mean = sums[groups.first] / groups.root
    return torch.where(groups.small, z - (mean - z[groups.first]) / groups.step, mean)


def _back(ordered: Tensor, groups: RowGroups) -> Tensor:
    """Rows back in their places, as float32."""
    out = torch.empty(ordered.shape, dtype=torch.float32, device=ordered.device)
    out[groups.rows] = ordered.float()
    return out


def householder_before(stage: Householder, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, RowGroups]:
    """Rows mixed within their groups; memo: the groups."""
    if not x.numel():
        return x, _groups(torch.from_numpy(np.zeros(x.shape[0])))
    groups = _groups(x.amax(dim=1) - x.amin(dim=1))
    return _back(_reflected(x[groups.rows].double() * groups.scale, groups), groups), groups


def householder_after(stage: Householder, values: Tensor, memo: RowGroups) -> Tensor:
    """Rows apart again."""
    return _back(_reflected(values[memo.rows].double(), memo) / memo.scale, memo)
