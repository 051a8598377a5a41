"""A second term for blocks with outliers: see `narrowgauge.formats.stages.fallback`."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.stages import Draw, Fallback
from narrowgauge.kernels.tensor import dequantize_raw, quantize_raw
from narrowgauge.kernels.tiles import group_amax, multiply_tiles

Memo = tuple[Tensor, Tensor, str]


def fallback_before(stage: Fallback, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """x as it is; memo: x, where it has a second term, and the scheme."""
    if not x.numel():
        return x, (x, torch.zeros_like(x, dtype=torch.bool), str(scheme))
    amax = group_amax(x, scheme.tile)
    size = torch.where(torch.isfinite(amax), amax, 0.0).flatten()
    largest = torch.sort(size, descending=True, stable=True).indices[: stage.count(size.numel())]
    chosen = torch.zeros_like(size).index_fill_(0, largest, 1.0).reshape(amax.shape)
    inside = multiply_tiles(torch.ones_like(x, memory_format=torch.contiguous_format), chosen, scheme.tile)
    return x, (x, inside.bool(), str(scheme))


def fallback_after(stage: Fallback, values: Tensor, memo: Memo) -> Tensor:
    """The first term and that of the residual."""
    x, inside, text = memo
    codes, scale, outer = quantize_raw(torch.where(inside, x - values, 0.0), text)
    return values + dequantize_raw(codes, scale, outer, text, torch.float32)
