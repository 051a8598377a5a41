"""Scales that are not of a scheme's own rule: see rms, top and smooth in `narrowgauge.formats.stages`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from narrowgauge.formats import Scheme
from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.formats.stages import Draw, Rms, Smooth, Top
from narrowgauge.formats.stages.rms import BLOCK, HIGHEST, LOWEST

Memo = tuple[float | Tensor, float]


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent.clamp(LOWEST, HIGHEST).to(torch.int32) + 127) << 23).view(torch.float32)


def rms_scales(stage: Rms, x: Tensor, scheme: Scheme) -> Tensor:
    """s of each element of x [rows, columns], float32; 1 in blocks with a NaN or an infinity."""
    rows, columns = x.shape
    whole = pad(x, (0, -columns % BLOCK)).reshape(rows, -1, BLOCK)
    amax = whole.abs().amax(dim=-1)
    finite = torch.isfinite(amax)
    top = torch.frexp(torch.where(finite, amax, 1.0)).exponent.clamp(LOWEST, HIGHEST)
    total = (torch.where(finite.unsqueeze(-1), whole, 0.0) * _power_of_two(-top).unsqueeze(-1)).square()
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        total = total[..., :half] + total[..., half:]
    starts = torch.arange(whole.shape[1], dtype=torch.float32, device=x.device) * BLOCK
    counts = (columns - starts).clamp(max=BLOCK)
    rms = (total[..., 0] * counts.reciprocal()).sqrt()
    exponent = torch.frexp(rms * stage.ratio(scheme)).exponent - 1 + top
    scale = torch.where(finite, _power_of_two(exponent), 1.0)
    return scale.repeat_interleave(BLOCK, dim=1)[:, :columns]


def rms_before(stage: Rms, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """x / s; memo: s."""
    if not x.numel():
        return x, (1.0, 0.0)
    scale = rms_scales(stage, x, scheme)
    return x * scale.reciprocal(), (scale, 0.0)


def top_before(stage: Top, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """x / s; memo: s."""
    if not x.numel():
        return x, (1.0, 0.0)
    amax = x.abs().amax()
    scale = (amax / stage.largest).clamp(SMALLEST_SCALE, torch.finfo(torch.float32).max)
    scale = torch.where((amax == 0) | ~torch.isfinite(amax), 1.0, scale)
    return x * scale.reciprocal(), (scale, 0.0)


def smooth_before(stage: Smooth, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, Memo]:
    """x / s; memo: s of each channel."""
    if not x.numel():
        return x, (1.0, 0.0)
    amax = x.abs().amax(dim=stage.axis, keepdim=True)
    parts = torch.frexp(torch.where(torch.isfinite(amax), amax, 1.0))
    scale = _power_of_two(parts.exponent - (parts.mantissa == 0.5).int())
    return x * scale.reciprocal(), (scale, 0.0)
