"""Moments in bfloat16, rounded to nearest or stochastically: 4 bytes a parameter.

To nearest, an average forgets nothing that is less than half a unit of its last place: of v, whose steps are
1 - β₂ = 1e-3, with 8 bits of significand, most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_peers.arrays import Float32Array, draws, from_bf16, quiet, to_bf16

Words = NDArray[np.uint16]


@dataclass(frozen=True)
class Bf16:
    """Both moments in bfloat16; stochastic: whether a value goes up with the probability of its distance."""

    name: str
    stochastic: bool

    group = 1
    bytes_per_parameter = 4.0

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Words, Words]:
        """The bits of both moments."""
        random = [draws(m.shape, seed, stream) if self.stochastic else None for stream in (0, 1)]
        return to_bf16(m, random[0]), to_bf16(v, random[1])

    @quiet
    def load(self, state: tuple[Words, Words]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        return from_bf16(state[0]), from_bf16(state[1])
