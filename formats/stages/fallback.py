"""`fallbackP`: blocks with outliers get a second term (arXiv 2503.08040, dynamic block-level fallback).

    x̂ = Q(x)                      and, in the share P of the blocks with the largest |x|,
    operand = x̂ + Q(x - x̂)        the residual under scales of its own: 16 bits in two codes

A product over such an operand costs 1 + P of the plain one. The paper keeps a threshold of |x| per layer, which follows
the share of blocks beyond it from step to step; here the share is met exactly in every call, ⌈P · blocks⌉ of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.clipping import percentile_rank
from narrowgauge.formats.quantizer import quantize_reference
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage, number
from narrowgauge.formats.tiles import spread, tile_max

CODE_BITS = 8


@dataclass(frozen=True)
class Fallback(Stage):
    """share: P, of the blocks with two terms, above 0 and at most 1."""

    share: float

    order = 90
    EXAMPLE = "fallback0.2"

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"fallback: expected a share of the blocks, above 0 and at most 1, got {self.share}")

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        return cls(number(text[8:], text)) if text.startswith("fallback") else None

    def __str__(self) -> str:
        return f"fallback{self.share:g}"

    def check(self, scheme: Scheme) -> None:
        if scheme.tile == (None, None):
            raise ValueError("option: 'fallback' chooses among blocks, got one scale per tensor")
        if scheme.stochastic or scheme.element.bits > CODE_BITS:
            raise ValueError(f"option: 'fallback' goes with at most {CODE_BITS} bits, rounded to nearest, got {scheme}")

    def count(self, blocks: int) -> int:
        """How many of so many blocks have two terms."""
        return percentile_rank(100.0 * self.share, blocks)

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        if not x.size:
            return x, (x, np.zeros(x.shape, dtype=np.bool_), scheme)
        amax = tile_max(np.abs(x).astype(np.float64), scheme.tile)
        size = np.where(np.isfinite(amax), amax, 0.0).reshape(-1)
        chosen = np.zeros(size.size, dtype=np.bool_)
        chosen[np.argsort(-size, kind="stable")[: self.count(size.size)]] = True
        return x, (x, spread(chosen.reshape(amax.shape), scheme.tile, (x.shape[0], x.shape[1])), scheme)

    def after(self, values: NDArray[np.float64], memo: Memo) -> NDArray[np.float64]:
        x, inside, scheme = memo
        with np.errstate(over="ignore", invalid="ignore"):
            residual = np.where(inside, x - values.astype(np.float32), np.float32(0))
        return np.asarray(values + quantize_reference(residual, scheme).dequantize())
