"""How a parameter takes its update on a CPU: `kernels/step_rules.MASTERS`, of blocks in working memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from narrowgauge.kernels._codes_torch import store_stochastic
from narrowgauge.kernels._scratch_torch import CENTRE, UNIT, Scratch, Stretch

RESIDUAL_STEPS = 127.0
HALF_ULP = 2.0**-8
"""Half an ulp of a bfloat16 number, in its power of two."""
SMALLEST_POWER, LARGEST_POWER = 2.0**-126, 2.0**127
_EXPONENT = torch.tensor(0x7F800000, dtype=torch.int32)


def _power(p: Tensor, out: Tensor) -> Tensor:
    """The power of two at or below |p|, float32; of what is not finite, some number."""
    torch.bitwise_and(p.view(torch.int32), _EXPONENT, out=out.view(torch.int32))
    return out.clamp_(SMALLEST_POWER, LARGEST_POWER)


def read_parameter(p: Tensor, residual: Tensor | None, out: Tensor, scratch: Scratch) -> Tensor:
    """p in float32: itself, or a copy in `out`, its residual added. Overwrites the scratch's a and b."""
    if p.dtype is torch.float32:
        return p
    wide = out.copy_(p)
    if residual is not None:
        part = scratch.a[: p.numel()].copy_(residual).mul_(HALF_ULP / RESIDUAL_STEPS)
        wide.add_(part.mul_(_power(wide, scratch.b[: p.numel()])))
    return wide


def write_parameter(
    wide: Tensor, p: Tensor, residual: Tensor | None, master: str, scratch: Scratch, stretches: Sequence[Stretch]
) -> None:
    """Stores what `read_parameter` gave and a rule changed; `wide` is scratch afterwards. Overwrites the scratch's a,
    b, u and half."""
    if p.dtype is torch.float32:
        return
    if master == "sr":
        store_stochastic(wide, p, scratch, stretches)
        return
    p.copy_(wide)
    if residual is None:
        return
    count = p.numel()
    rounded = scratch.a[:count].copy_(p)
    wide.sub_(rounded).div_(_power(rounded, scratch.b[:count])).mul_(RESIDUAL_STEPS / HALF_ULP)
    # inf - inf where the parameter is not finite; what is left of a number that became infinite counts as zero, too.
    wide.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    wide.add_(scratch.draw(stretches, count), alpha=UNIT).add_(CENTRE).floor_()
    residual.copy_(wide.clamp_(-RESIDUAL_STEPS, RESIDUAL_STEPS))
