"""Weights in two bytes, and in three: bfloat16, and bfloat16 with an int8 rest of half a unit in its last place.

    w = bfloat16(x), unit = 2^(exponent(w) - 7), z = (x - w) / (unit / 2)        ŵ = w + r / 127 · unit / 2
    r = round(127 z) (FlashOptim, arXiv 2602.23349) or floor(127 z + u), u uniform in [0, 1)

To nearest, a step below half of a code is lost: in bfloat16 that is 2^-9 of the weight, with the rest about 1.5e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_peers.arrays import Float32Array, draws, from_bf16, quiet, to_bf16

Words = NDArray[np.uint16]
Rest = NDArray[np.int8]
REST = np.float32(127)
RANDOM = np.float32(1 << 16)


@dataclass(frozen=True)
class Bf16Weight:
    """bfloat16, to nearest or stochastically."""

    name: str
    stochastic: bool

    bytes_per_parameter = 2.0

    @quiet
    def store_weight(self, w: Float32Array, seed: int = 0) -> Words:
        """The bits."""
        return to_bf16(w, draws(w.shape, seed, 0) if self.stochastic else None)

    @quiet
    def load_weight(self, state: Words) -> Float32Array:
        """The weight as it reads back."""
        return from_bf16(state)


@dataclass(frozen=True)
class SplitWeight:
    """bfloat16 and an int8 rest, which is rounded to nearest or stochastically."""

    name: str
    stochastic: bool

    bytes_per_parameter = 3.0

    @quiet
    def store_weight(self, w: Float32Array, seed: int = 0) -> tuple[Words, Rest]:
        """The bits and the rest."""
        high = to_bf16(w)
        share = np.clip((w - from_bf16(high)) / _half_unit(high), -1, 1) * REST
        rest = np.floor(share + draws(w.shape, seed, 0) / RANDOM) if self.stochastic else np.rint(share)
        return high, rest.astype(np.int8)

    @quiet
    def load_weight(self, state: tuple[Words, Rest]) -> Float32Array:
        """The weight as it reads back."""
        high, rest = state
        return from_bf16(high) + rest.astype(np.float32) / REST * _half_unit(high)


def _half_unit(high: Words) -> Float32Array:
    """Half a unit in the last place of bfloat16 bits."""
    exponent = np.maximum((high >> 7) & np.uint16(0xFF), 1).astype(np.int32) - 127
    return np.ldexp(np.float32(1), exponent - 8).astype(np.float32)
