"""`rmsC`: power-of-two scales from the root mean square of each 32 elements, not from their maximum (Quartet, arXiv
2505.14669, after QuEST, arXiv 2502.05003).

    s = 2^⌊log2(C / M · rms) + 1/2⌋, M the element's largest value        operand = s · Q(x / s), clipped beyond ±M

C is the clipping point in units of the root mean square; C = 2.92247856 has the least squared error for E2M1 and
Gaussian values while scales are not rounded. (The paper's released kernels round s down to a power of two, so that they
clip at 1.5 to 2.9 rms; here it goes to the nearest.) The rms is that of the block times a power of two that brings its
maximum to 1/2 … 1, so that squares neither overflow nor vanish; they are added in pairs, by halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage, number

BLOCK = 32
LOWEST, HIGHEST = -126, 126
"""Exponents of scales: their reciprocals are normal numbers."""


def power_of_two(exponent: NDArray[np.integer]) -> Float32Array:
    """2^exponent in float32, from its bits."""
    return ((np.clip(exponent, LOWEST, HIGHEST).astype(np.int32) + 127) << 23).view(np.float32)


@dataclass(frozen=True)
class Rms(Stage):
    """clip: C, above 0. For schemes with the granularity 1x32 and the scale 1, which this stage takes the place of."""

    clip: float

    order = 35
    linear = True
    EXAMPLE = "rms2.92247856"

    def __post_init__(self) -> None:
        if not 0.0 < self.clip < float("inf"):
            raise ValueError(f"rms: expected a number above 0, got {self.clip}")

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls(number(text[3:], text)) if text.startswith("rms") else None

    def __str__(self) -> str:
        return f"rms{self.clip!r}"

    def check(self, scheme: Scheme) -> None:
        if scheme.static != 1.0 or scheme.tile != (1, BLOCK):
            raise ValueError(f"option: {self} goes with '/1x{BLOCK}:static=1.0', got {scheme}")

    def ratio(self, scheme: Scheme) -> float:
        """√2 · C / M, which float32 rounds; the exponent of its product with the rms is that of s."""
        return sqrt(2.0) * self.clip / scheme.element.max

    def scales(self, x: Float32Array, scheme: Scheme) -> Float32Array:
        """s of each element of x [rows, columns], 1 in blocks with a NaN or an infinity."""
        rows, columns = x.shape
        whole = np.pad(x, [(0, 0), (0, -columns % BLOCK)]).reshape(rows, -1, BLOCK)
        with np.errstate(invalid="ignore", over="ignore"):
            amax = np.abs(whole).max(axis=-1, initial=0.0)
            finite = np.isfinite(amax)
            top = np.clip(np.frexp(np.where(finite, amax, 1.0))[1], LOWEST, HIGHEST)
            total = np.square(np.where(finite[..., None], whole, 0.0) * power_of_two(-top)[..., None])
            while total.shape[-1] > 1:
                half = total.shape[-1] // 2
                total = total[..., :half] + total[..., half:]
        counts = np.minimum(BLOCK, columns - BLOCK * np.arange(whole.shape[1])).astype(np.float32)
        rms = np.sqrt(total[..., 0] * (np.float32(1) / counts))
        exponent = np.frexp(rms * np.float32(self.ratio(scheme)))[1] - 1 + top
        scale = np.where(finite, power_of_two(exponent), np.float32(1)).astype(np.float32)
        return np.repeat(scale, BLOCK, axis=1)[:, :columns]

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        if not x.size:
            return x, (1.0, 0.0)
        scale = self.scales(x, scheme)
        return x * (np.float32(1) / scale), (scale.astype(np.float64), 0.0)
