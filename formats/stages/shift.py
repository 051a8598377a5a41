"""`affine`: subtracts the least value of a group before, adds it afterwards: asymmetric, with a real offset.

    code = encode((x - lo) / s), s = (hi - lo) / (2^b - 1)        x ≈ code · s + lo

With `uint8` per tensor and per row these are PTQ and PSQ of StatQuant (arXiv 2010.14298), whose gradients round
stochastically. Zero is not exact; `formats.quantize_affine` has the variant with an integer zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from narrowgauge.formats.integers import IntFormat
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage


@dataclass(frozen=True)
class Shift(Stage):
    """For unsigned integers, per tensor or per row."""

    order = 30
    linear = True
    EXAMPLE = "affine"

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls() if text == "affine" else None

    def __str__(self) -> str:
        return "affine"

    def check(self, scheme: Scheme) -> None:
        if not isinstance(scheme.format, IntFormat) or scheme.format.signed:
            raise ValueError(f"option: 'affine' goes with unsigned integers such as uint8, got {scheme.format.name}")
        if scheme.tile not in ((None, None), (1, None)):
            raise ValueError(f"option: 'affine' goes with the granularities tensor and row, got {scheme.granularity}")

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        if not x.size:
            return x, (1.0, 0.0)
        low = x.min(axis=-1, keepdims=True) if scheme.tile[0] == 1 else x.min()
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(x - low), (1.0, np.asarray(low, dtype=np.float64))
