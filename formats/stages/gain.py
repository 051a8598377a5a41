"""`gainG`: quantises G·x and divides by G afterwards.

For E2M1 under stochastic rounding (arXiv 2502.20586): 3/4·x over the OCP scale 2^(⌊log2 amax⌋ - 2) of x stays below 6,
so that nothing clips and the estimate is unbiased; the product of two such operands is multiplied by 16/9. Seen from
3/4·x that scale is the smallest power of two that does not clip, the rule `rceil`; only where amax is a power of two is
`rceil` a binade finer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage, number


@dataclass(frozen=True)
class Gain(Stage):
    """gain: above 0."""

    gain: float

    order = 40
    linear = True
    EXAMPLE = "gain0.75"

    def __post_init__(self) -> None:
        if not 0.0 < self.gain < float("inf"):
            raise ValueError(f"gain: expected a number above 0, got {self.gain}")

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls(number(text[4:], text)) if text.startswith("gain") else None

    def __str__(self) -> str:
        return f"gain{self.gain:g}"

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        with np.errstate(over="ignore", invalid="ignore"):
            return x * np.float32(self.gain), (1.0 / self.gain, 0.0)
