"""FlashOptim's 8-bit states (Databricks, arXiv 2602.23349): companded int8 m, uint8 of the root of v, groups of 32.

    m: a = max|m|, z = m / a, t = 2z / (1 + |z|), code = floor(127 t + 1/2)      m̂ = a · t / (2 - |t|), t = code / 127
    v: a = max sqrt(v), code = floor(255 sqrt(v) / a + 1/2)                      v̂ = (code / 255 · a)²

Both a are at least 1e-12 and are stored as float16, which is below its smallest number (6e-8) for gradients below 1e-7:
the group reads back as zeros, and from 1e-5 down a itself loses bits. The variant with float32 a is not published; it
tells that defect from the code. A v below (1/510)² of its group's largest becomes zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_peers.arrays import Float32Array, amax, grouped, quiet, ungrouped

GROUP = 32
LEAST = np.float32(1e-12)
HALF = np.float32(0.5)


@dataclass(frozen=True)
class Flash:
    """scale_dtype: of the groups' largest values, float16 as published or float32."""

    name: str
    scale_dtype: type[np.floating[Any]]

    group = GROUP
    stochastic = False

    @property
    def bytes_per_parameter(self) -> float:
        """Of both moments."""
        return 2 * (1 + np.dtype(self.scale_dtype).itemsize / GROUP)

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Any, ...]:
        """Codes and largest values of both moments, and their shape."""
        groups, roots = grouped(m, GROUP), np.sqrt(grouped(v, GROUP))
        first: Float32Array = np.maximum(amax(groups), LEAST)
        second: Float32Array = np.maximum(amax(roots), LEAST)
        codes_m = softsign_codes(groups / first)
        codes_v = np.floor(np.float32(255) * (roots / second) + HALF)
        return (codes_m, first.astype(self.scale_dtype),
                np.nan_to_num(codes_v).astype(np.uint8), second.astype(self.scale_dtype), m.shape)  # fmt: skip

    @quiet
    def load(self, state: tuple[Any, ...]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        codes_m, first, codes_v, second, shape = state
        m = softsign_values(codes_m) * first.astype(np.float32)
        v = np.square(codes_v.astype(np.float32) / np.float32(255) * second.astype(np.float32))
        return ungrouped(m, shape), ungrouped(v, shape)


def softsign_codes(z: Float32Array) -> NDArray[np.int8]:
    """int8 of z in [-1, 1]: floor(127 t + 1/2), t = 2z / (1 + |z|)."""
    t = np.float32(2) * z / (np.float32(1) + np.abs(z))
    return np.nan_to_num(np.floor(np.float32(127) * t + HALF)).astype(np.int8)


def softsign_values(codes: NDArray[np.int8]) -> Float32Array:
    """z of the codes: t / (2 - |t|), t = code / 127."""
    t = codes.astype(np.float32) / np.float32(127)
    return t / (np.float32(2) - np.abs(t))
