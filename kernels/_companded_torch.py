"""The kinds log and softsign of `kernels/moments.py` on a CPU; see `_moments_torch.py`, which calls these."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.kernels._codes_torch import narrow_codes, store_codes
from narrowgauge.kernels._group_numbers import (
    LN_2,
    group_scale,
    log_numbers,
    read_log_numbers,
    stored_log_numbers,
    unbiased,
)
from narrowgauge.kernels._scratch_torch import CENTRE, UNIT, Scratch, Stretch
from narrowgauge.kernels._steady_torch import exp2
from narrowgauge.kernels.moments import SMALLEST_MAGNITUDE, MomentCodec

LARGEST_SUBNORMAL = SMALLEST_MAGNITUDE * (1 - 2.0**-23)


def decode_log(
    codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch, stretches: Sequence[Stretch],
    root: Tensor | None,
) -> None:  # fmt: skip
    """See `decode_block`. The root comes first: half an exponent loses no range."""
    count = out.numel()
    draws = scratch.draw(stretches, count) if codec.rounding == "dither" else None
    narrow = narrow_codes(codec, codes, scratch.half)
    place = (out if root is None else root).copy_(narrow)
    lo, step = read_log_numbers(scale.view(torch.int32))
    half = codec.levels / 2
    some_zero = int(narrow.amin()) == 0
    if some_zero:
        torch.clamp(place, max=1.0, out=scratch.a[:count])
    factor = exp2((lo + half * step).mul_(0.5))
    shift = 1.0 + half
    if draws is not None:
        place.sub_(draws, alpha=UNIT)
        shift -= 0.5 - CENTRE
        factor.mul_(unbiased(step).sqrt_())
    place.sub_(shift)
    place.view(-1, codec.group).mul_(step.mul_(0.5))
    place.exp2_().view(-1, codec.group).mul_(factor)
    if some_zero:
        place.mul_(scratch.a[:count])
    torch.mul(place, place, out=out)


def encode_log(
    codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch, stretches: Sequence[Stretch],
    inverse_root: Tensor | None,
) -> Tensor:  # fmt: skip
    """See `encode_block`; returns the groups' largest values."""
    count, half = x.numel(), codec.levels / 2
    a, b = scratch.a[:count], scratch.b[:count]
    rows, code_rows, other_rows = (t.view(-1, codec.group) for t in (x, a, b))
    high, low = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
    largest, present, draws = high, None, None
    if not float(low.amin()) >= SMALLEST_MAGNITUDE:
        present = scratch.g[:count]
        high, low = _without_zeros(rows, high, present.view(rows.shape))
    lo, step = log_numbers(high, low, codec)
    if present is not None:
        step.masked_fill_(largest < SMALLEST_MAGNITUDE, 1.0)
    scale.view(torch.int32).copy_(stored_log_numbers(lo, step))
    if present is not None or not float(torch.log2(low).sub_(lo).amin()) >= 0:
        torch.maximum(rows, exp2(lo), out=rows)
    # `middle` is of the size of 1, and so are its logarithm's errors.
    middle = lo.add_(step, alpha=half)
    rows.mul_(exp2(-middle))
    torch.log2(x, out=a)
    code_rows.mul_(step.reciprocal())
    a.add_(half)
    if codec.rounding == "dither":
        draws = scratch.draw(stretches, count)
        a.add_(draws, alpha=UNIT).add_(CENTRE + 1.0).floor_()
    elif codec.rounding == "nearest":
        a.round_().add_(1.0)
    else:
        torch.sub(a.floor_(), half, out=b)
        other_rows.mul_(step)
        # How far above the lower neighbour, in parts of the way to the upper one.
        x.div_(b.exp2_()).sub_(1.0)
        rows.mul_(torch.expm1(step * LN_2).reciprocal_())
        draws = scratch.draw(stretches, count)
        a.add_(x.sub_(draws, alpha=UNIT).add_(2.0 - CENTRE).floor_())
    a.clamp_(1.0, codec.levels + 1.0)
    if present is not None:
        a.mul_(present)
    store_codes(codec, a, codes, scratch)
    if inverse_root is not None:
        shift = 1.0 + half
        if codec.rounding == "dither" and draws is not None:
            torch.sub(a, draws, alpha=UNIT, out=inverse_root)
            inverse_root.sub_(shift - 0.5 + CENTRE)
        else:
            torch.sub(a, shift, out=inverse_root)
        factor = exp2(middle.mul_(-0.5))
        if codec.rounding == "dither":
            factor.div_(unbiased(step).sqrt_())
        inverse_root.view(rows.shape).mul_(step.mul_(-0.5))
        inverse_root.exp2_().view(rows.shape).mul_(factor)
        if present is not None:
            inverse_root.mul_(present)
    return largest


def _without_zeros(rows: Tensor, high: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and smallest of what counts as positive in each group, 1 and 1 where nothing does; `present` becomes 1
    where something does, else 0."""
    torch.threshold(rows, LARGEST_SUBNORMAL, torch.inf, out=present)
    occupied = high >= SMALLEST_MAGNITUDE
    low = torch.where(occupied, present.amin(1, keepdim=True), 1.0)
    torch.mul(rows, 1.0 / SMALLEST_MAGNITUDE, out=present).clamp_(max=1.0).floor_()
    return torch.where(occupied, high, 1.0), low


def decode_softsign(
    codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch, stretches: Sequence[Stretch]
) -> None:
    """See `decode_block`."""
    draws = scratch.draw(stretches, out.numel()) if codec.rounding == "dither" else None
    out.copy_(narrow_codes(codec, codes, scratch.half))
    if draws is not None:
        out.sub_(draws, alpha=UNIT).add_(0.5 - CENTRE)
    below = torch.abs(out, out=scratch.a[: out.numel()]).sub_(2.0 * codec.levels)
    out.div_(below).view(-1, codec.group).mul_(scale.float().neg())


def encode_softsign(
    codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch, stretches: Sequence[Stretch],
    inverse_root: Tensor | None,
) -> Tensor:  # fmt: skip
    """See `encode_block`; returns the groups' largest magnitudes."""
    magnitude = torch.abs(x, out=scratch.a[: x.numel()])
    rows = magnitude.view(-1, codec.group)
    high = rows.amax(1, keepdim=True)
    numbers = group_scale(high, codec)
    scale.copy_(numbers)
    rows.add_(numbers.clamp_(min=SMALLEST_SCALE))
    x.div_(magnitude).mul_(2.0 * codec.levels)
    if codec.draws:
        x.add_(scratch.draw(stretches, x.numel()), alpha=UNIT).add_(CENTRE).floor_()
    else:
        x.round_()
    store_codes(codec, x.clamp_(-codec.levels, codec.levels), codes, scratch)
    return high
