"""The kinds log and softsign of `kernels/moments.py` as pure functions; see `_moments_pure.py`, which calls these."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.kernels._group_numbers import (
    LN_2,
    group_scale,
    log_numbers,
    read_log_numbers,
    stored_log_numbers,
    unbiased,
)
from narrowgauge.kernels._pure_codec import PureCodec
from narrowgauge.kernels._pure_math import (
    SMALLEST_BITS,
    absent,
    exp2,
    extremes,
    keep,
    log2,
    magnitude_bits,
)
from narrowgauge.kernels._steady_torch import exp2 as steady_exp2
from narrowgauge.kernels.moments import NAN_BITS, SMALLEST_MAGNITUDE


def decode_log(codec: PureCodec, codes: Tensor, scale: Tensor, u: Tensor | None) -> Tensor:
    """See `decode_rows`: the root of v."""
    lo, step = read_log_numbers(scale)
    half = codec.levels / 2
    factor = steady_exp2((lo + half * step) * 0.5)
    wide = codes.to(torch.int32)
    place = wide.float() - (1 + half)
    if u is not None:
        place = place + (0.5 - u)
        factor = factor * torch.sqrt(unbiased(step))
    half_step, factor = keep(step * 0.5, factor)
    return exp2(place * half_step) * factor * wide.clamp(max=1).float()


def encode_log(codec: PureCodec, x: Tensor, u: Tensor | None, whiten: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """See `encode_rows`."""
    bits = magnitude_bits(x)
    missing = absent(bits)
    high, low = extremes(x, bits, missing, codec.axes)
    finite = high < torch.inf
    occupied = (high >= SMALLEST_MAGNITUDE) & finite
    lo, step = log_numbers(torch.where(occupied, high, 1.0), torch.where(occupied, low, 1.0), codec)
    lo, step = torch.where(occupied, lo, 0.0), torch.where(occupied, step, 1.0)
    scale = torch.where(finite, stored_log_numbers(lo, step), NAN_BITS << 16)
    half = codec.levels / 2
    middle = lo + half * step
    back = steady_exp2(middle * -0.5)
    if codec.rounding == "dither":
        back = back / torch.sqrt(unbiased(step))
    down, per_step, step, gap, back, usable = keep(
        steady_exp2(-middle), 1 / step, step, 1 / torch.expm1(step * LN_2), torch.where(finite, back, torch.nan),
        finite.float(),
    )  # fmt: skip
    scaled = bits.clamp(min=SMALLEST_BITS).view(torch.float32) * down
    y = log2(scaled) * per_step + half
    if u is None:
        place = torch.round(y)
    elif codec.rounding == "dither":
        place = torch.floor(y + u)
    else:
        place = torch.floor(y).to(torch.int32).clamp(0, codec.levels).float()
        ratio = scaled * exp2((half - place) * step)
        place = place + torch.floor((ratio - 1) * gap + (1 - u))
    code = (place.to(torch.int32).clamp(0, codec.levels) + 1) & ~missing
    codes = (code & -usable.to(torch.int32)).to(torch.uint8)
    if not whiten:
        return codes, scale, None
    place = code.float() - (1 + half)
    if codec.rounding == "dither" and u is not None:
        place = place + (0.5 - u)
    inverse = exp2(place * (step * -0.5)).view(torch.int32) & ~missing
    return codes, scale, inverse.view(torch.float32) * back


def decode_softsign(codec: PureCodec, codes: Tensor, numbers: Tensor, u: Tensor | None) -> Tensor:
    """See `decode_rows`."""
    code = codes.float() if u is None else codes.float() + (0.5 - u)
    return code / (2 * codec.levels - code.abs()) * numbers


def encode_softsign(codec: PureCodec, x: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, int32; scale; largest magnitudes) of groups."""
    high = x.abs().amax(codec.axes, keepdim=True)
    scale = group_scale(high, codec)
    scale, divisor = keep(scale, scale.clamp(min=SMALLEST_SCALE))
    y = 2 * codec.levels * (x / (divisor + x.abs()))
    codes = torch.round(y) if u is None else torch.floor(y + u)
    return codes.to(torch.int32).clamp(-codec.levels, codec.levels), scale, high
