"""`planes`: codes that split into two INT4 planes (Xi et al., arXiv 2306.11987, section 4.2, bit splitting).

    s = amax / 119,   code = SR(x / s) in -119 … 119,   code = 16 · hi + lo,   hi in -7 … 7,   lo in -8 … 7

119 = 16 · 7 + 7 is the largest code of which both parts are INT4; so the product of two INT4 GEMMs, 16 times the one
plus the other, is that of the 8-bit codes. The scheme is `int8:static=1.0`, since the stage brings the scale along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from narrowgauge.formats.scaling import amax_scale, inverse_scale
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage

LARGEST_CODE = 119
HIGH = 16
"""What a step of the upper plane is worth in steps of the lower."""


@dataclass(frozen=True)
class Planes(Stage):
    """For `int8:static=1.0`, one scale per tensor."""

    order = 60
    linear = True
    EXAMPLE = "planes"

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls() if text == "planes" else None

    def __str__(self) -> str:
        return "planes"

    def check(self, scheme: Scheme) -> None:
        if scheme.format.name != "int8" or scheme.static != 1.0 or scheme.tile != (None, None):
            raise ValueError(f"option: 'planes' goes with 'int8:static=1.0', got {scheme}")

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        if not x.size:
            return x, (1.0, 0.0)
        step = amax_scale(np.abs(x).max(), LARGEST_CODE)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(x * inverse_scale(step)), (float(step), 0.0)
