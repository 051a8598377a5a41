"""`topM`: the scale under which the largest magnitude of the tensor becomes M, for grids that do not end there.

    s = amax / M        operand = s · Q(x / s)

IBM's two-phase rounding (Sun et al., NeurIPS 2020) rounds one gradient to ±4^j and to ±2 · 4^j under one scale, that of
the first grid: `radix4_fp4` under its own rule, and `radix4_fp4_odd:static=1.0+top4096`. A scale of its own would put
both grids in the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from narrowgauge.formats.scaling import amax_scale
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage, number


@dataclass(frozen=True)
class Top(Stage):
    """largest: M, above 0. For schemes per tensor with the scale 1, which this stage takes the place of."""

    largest: float

    order = 36
    linear = True
    EXAMPLE = "top4096"

    def __post_init__(self) -> None:
        if not 0.0 < self.largest < float("inf"):
            raise ValueError(f"top: expected a number above 0, got {self.largest}")

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls(number(text[3:], text)) if text.startswith("top") else None

    def __str__(self) -> str:
        return f"top{self.largest:.17g}"

    def check(self, scheme: Scheme) -> None:
        if scheme.static != 1.0 or scheme.tile != (None, None):
            raise ValueError(f"option: {self} goes with ':static=1.0' per tensor, got {scheme}")

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        amax = np.abs(x).max(initial=0.0)
        if not np.isfinite(amax):
            return x, (1.0, 0.0)
        scale = amax_scale(amax, self.largest)
        return x * (np.float32(1) / scale), (float(scale), 0.0)
