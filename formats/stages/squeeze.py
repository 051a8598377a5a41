"""`s2`: the shift and squeeze of S2FP8 (arXiv 2001.05674) around E5M2, in float64.

    y = sign(x) · 2^β · |x|^α before, its inverse after, with α and β from the mean and the maximum of log2 |x|

Powers and logarithms come from the mathematical library: where |y| lies within its rounding of the border between two
codes, machines may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.s2fp8 import squeeze_factors, squeezed, unsqueezed
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage


@dataclass(frozen=True)
class Squeeze(Stage):
    """For E5M2 with the scale 1, which the map has taken care of."""

    order = 45
    EXAMPLE = "s2"

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls() if text == "s2" else None

    def __str__(self) -> str:
        return "s2"

    def check(self, scheme: Scheme) -> None:
        if scheme.format.name != "e5m2" or scheme.static != 1.0 or scheme.stochastic:
            raise ValueError(f"option: 's2' goes with 'e5m2:static=1.0', got {scheme}")

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        alpha, beta = squeeze_factors(x)
        if np.isnan(alpha):
            return np.full_like(x, np.nan), (alpha, beta)
        return squeezed(x, alpha, beta).astype(np.float32), (alpha, beta)

    def after(self, values: NDArray[np.float64], memo: Memo) -> NDArray[np.float64]:
        return unsqueezed(values, *memo)
