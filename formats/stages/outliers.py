"""`occP`: outlier clamping and compensation (arXiv 2501.17116).

    hi = the P-quantile of x over the tensor, lo = the (1 - P)-quantile      c = clamp(x, lo, hi)
    operand = Q(c) + (x - c)

The second term is sparse, 2 (1 - P) of the elements, and stays in high precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from narrowgauge.formats.clipping import percentile_rank
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage, number


@dataclass(frozen=True)
class Outliers(Stage):
    """share: P, of the elements that are not above hi, above 1/2 and below 1."""

    share: float

    order = 20
    linear = True
    EXAMPLE = "occ0.99"

    def __post_init__(self) -> None:
        if not 0.5 < self.share < 1.0:
            raise ValueError(f"occ: expected a quantile above 0.5 and below 1, got {self.share}")

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls(number(text[3:], text)) if text.startswith("occ") else None

    def __str__(self) -> str:
        return f"occ{self.share:g}"

    def ranks(self, count: int) -> tuple[int, int]:
        """Which of `count` values, in ascending order and counted from 1, are lo and hi."""
        high = percentile_rank(100.0 * self.share, count)
        return count + 1 - high, high

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        if not x.size:
            return x, (1.0, 0.0)
        places = [rank - 1 for rank in self.ranks(x.size)]
        low, high = np.partition(x.reshape(-1), places)[places]
        inside = np.clip(x, low, high)
        with np.errstate(invalid="ignore"):
            return inside, (1.0, (x - inside).astype(np.float64))
