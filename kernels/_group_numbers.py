"""Numbers of groups of stored moments in torch: pure functions of float32 [groups, 1], on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.kernels._pure_codec import PureCodec
from narrowgauge.kernels.moments import LOG_UNIT, SMALLEST_STEP, MomentCodec

LARGEST_BFLOAT16 = float(torch.finfo(torch.bfloat16).max)
LARGEST_FLOAT32 = float(torch.finfo(torch.float32).max)
LN_2 = math.log(2)


def bfloat16_up(x: Tensor) -> Tensor:
    """Positive float32 x rounded up to the values of bfloat16."""
    return ((x.view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)


def bfloat16_nearest(x: Tensor) -> Tensor:
    """Finite float32 x rounded to the values of bfloat16 by its bits: compilers leave out a cast and its inverse."""
    bits = x.view(torch.int32)
    return ((bits + (((bits >> 16) & 1) + 0x7FFF)) & -0x10000).view(torch.float32)


def group_scale(amax: Tensor, codec: PureCodec | MomentCodec) -> Tensor:
    """The scale as it is stored, float32, of finite maxima of the kinds linear, root, rank-1 and
    softsign."""
    softsign = codec.kind == "softsign"
    scale = (amax if softsign else amax / torch.full_like(amax, codec.target)).clamp(SMALLEST_SCALE, LARGEST_FLOAT32)
    if codec.scale_dtype == "bfloat16":
        scale = bfloat16_nearest(scale.clamp(max=LARGEST_BFLOAT16))
    return torch.where(amax == 0, 0.0 if softsign else 1.0, scale)


def log_numbers(high: Tensor, low: Tensor, codec: PureCodec | MomentCodec) -> tuple[Tensor, Tensor]:
    """(lo, D), float32, of the largest and the smallest positive value of groups that have one, all [groups, 1]."""
    top = torch.log2(high)
    units = torch.maximum(torch.log2(low), top - codec.levels * codec.most_step) * (1 / LOG_UNIT)
    lo = torch.floor(units) * LOG_UNIT
    return lo, bfloat16_up(((top - lo) / codec.levels).clamp(min=SMALLEST_STEP))


def stored_log_numbers(lo: Tensor, step: Tensor) -> Tensor:
    """int32 [groups, 1]: the two int16 numbers of a group as they lie in memory."""
    return (step.view(torch.int32) & -0x10000) | ((lo * (1 / LOG_UNIT)).to(torch.int32) & 0xFFFF)


def read_log_numbers(scale: Tensor) -> tuple[Tensor, Tensor]:
    """(lo, D), float32 [groups, 1] each, of int32 [groups, 1]."""
    return ((scale << 16) >> 16).float() * LOG_UNIT, (scale & -0x10000).view(torch.float32)


def unbiased(step: Tensor) -> Tensor:
    """h / sinh(h), h = D · ln(2) / 2: the factor of dithered logarithms."""
    h = step * (LN_2 / 2)
    e = torch.expm1(h)  # sinh = (e + e / (e + 1)) / 2; torch's has other bits for the last elements of a tensor
    return 2 * h / (e + e / (e + 1))
