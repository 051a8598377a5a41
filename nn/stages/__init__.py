"""The stages of operands in torch, each with the bits of its definition in `narrowgauge.formats.stages`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.stages import (
    Draw,
    Fallback,
    Gain,
    Householder,
    Outliers,
    Planes,
    Rms,
    Rotation,
    Shift,
    Smooth,
    Squeeze,
    Stage,
    Top,
)
from narrowgauge.nn.stages.elementwise import gain_before, outliers_before, shift_before
from narrowgauge.nn.stages.fallback import fallback_after, fallback_before
from narrowgauge.nn.stages.householder import householder_after, householder_before
from narrowgauge.nn.stages.planes import planes_before
from narrowgauge.nn.stages.rotation import rotation_before
from narrowgauge.nn.stages.scales import rms_before, smooth_before, top_before
from narrowgauge.nn.stages.squeeze import squeeze_after, squeeze_before

Memo = Any
Before = Callable[[Any, Tensor, Scheme, Draw], tuple[Tensor, Memo]]
After = Callable[[Any, Tensor, Memo], Tensor]


def scaled_and_shifted(stage: Stage, values: Tensor, memo: Memo) -> Tensor:
    """values · factor + rest, what undoes most stages."""
    factor, rest = memo
    return values * factor + rest if isinstance(rest, Tensor) else values * factor


def as_it_is(stage: Stage, values: Tensor, memo: Memo) -> Tensor:
    """What undoes a rotation: nothing, the product does."""
    return values


STAGES: dict[type[Stage], tuple[Before, After]] = {
    Rotation: (rotation_before, as_it_is),
    Smooth: (smooth_before, scaled_and_shifted),
    Rms: (rms_before, scaled_and_shifted),
    Top: (top_before, scaled_and_shifted),
    Gain: (gain_before, scaled_and_shifted),
    Shift: (shift_before, scaled_and_shifted),
    Outliers: (outliers_before, scaled_and_shifted),
    Householder: (householder_before, householder_after),
    Fallback: (fallback_before, fallback_after),
    Planes: (planes_before, scaled_and_shifted),
    Squeeze: (squeeze_before, squeeze_after),
}
"""What runs before the quantisation, and what after; float32 [rows, reduction]."""
