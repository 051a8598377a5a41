"""`smooth`, `smoothrow`: a power of two for each channel of an activation (Smooth-SwiGLU, arXiv 2409.12517).

    s_c = the smallest power of two that is no less than max |x_c|        operand = Q(x / s) · s

over columns c of x [tokens, channels] (`smooth`) or rows of its transpose (`smoothrow`). After it every channel's
maximum lies in 1/2 … 1, so one scale for all of them serves, whatever channel or step has an outlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.rms import power_of_two
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage


@dataclass(frozen=True)
class Smooth(Stage):
    """axis: over which maxima are taken: 0, the rows of x, or 1."""

    axis: int = 0

    order = 15
    linear = True
    EXAMPLE = "smooth"

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return {"smooth": cls(0), "smoothrow": cls(1)}.get(text)

    def __str__(self) -> str:
        return "smoothrow" if self.axis else "smooth"

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        amax = np.abs(x).max(axis=self.axis, keepdims=True, initial=0.0)
        finite = np.isfinite(amax)
        mantissa, exponent = np.frexp(np.where(finite, amax, 1.0))
        scale = power_of_two(exponent - (mantissa == 0.5))
        return x * (np.float32(1) / scale), (scale.astype(np.float64), 0.0)
