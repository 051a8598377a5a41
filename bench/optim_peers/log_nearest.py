"""`log8` rounded to nearest, with float32 numbers: what the stochastic rounding of ours is worth, and its test vectors.

Groups of 128; over the positive v of a group, lo = min log2(v), D = max(max log2(v) - lo, tiny) / 254:

    v: code 0 is 0, else 1 + round((log2(v) - lo) / D)         v̂ = 2^(lo + (code - 1) · D)
    m: u = m / sqrt(v̂) (0 where v̂ = 0), a = max|u|             m̂ = a · z · sqrt(v̂), z from the softsign code of u / a
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from narrowgauge.bench.optim_peers.arrays import Codes, Float32Array, amax, grouped, or_one, quiet, ungrouped
from narrowgauge.bench.optim_peers.flash import softsign_codes, softsign_values

GROUP = 128
STEPS = np.float32(254)
SMALLEST_SPAN = np.float32(2.0**-12)


@dataclass(frozen=True)
class LogNearest:
    """Both moments of `log8`, to nearest."""

    name: str = "log8, to nearest"

    group = GROUP
    stochastic = False
    bytes_per_parameter = 2 + 3 * 4 / GROUP

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Any, ...]:
        """Codes and numbers of both moments, and their shape."""
        codes, low, step = log_codes(grouped(v, GROUP))
        roots = np.sqrt(log_values(codes, low, step))
        whitened: Float32Array = np.where(roots == 0, np.float32(0), grouped(m, GROUP) / roots)
        scale = amax(whitened)
        first = softsign_codes(whitened / or_one(scale))
        return first, scale, codes, low, step, m.shape

    @quiet
    def load(self, state: tuple[Any, ...]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        first, scale, codes, low, step, shape = state
        v = log_values(codes, low, step)
        return ungrouped(softsign_values(first) * scale * np.sqrt(v), shape), ungrouped(v, shape)


def log_codes(groups: Float32Array) -> tuple[Codes, Float32Array, Float32Array]:
    """Codes, lo and D of [groups, group]; NaN for the numbers of a group that is not finite."""
    positive = groups > 0
    octaves = np.log2(np.where(positive, groups, np.float32(1)))
    low = np.where(positive, octaves, np.float32(np.inf)).min(axis=1, keepdims=True)
    high = np.where(positive, octaves, np.float32(-np.inf)).max(axis=1, keepdims=True)
    empty = ~positive.any(axis=1, keepdims=True)
    low, high = np.where(empty, np.float32(0), low), np.where(empty, np.float32(0), high)
    step = np.maximum(high - low, SMALLEST_SPAN) / STEPS
    step = np.where(np.isfinite(groups).all(axis=1, keepdims=True), step, np.float32(np.nan))
    codes = np.where(positive, 1 + np.rint((octaves - low) / step), 0)
    return np.nan_to_num(codes).astype(np.uint8), low, step


def log_values(codes: Codes, low: Float32Array, step: Float32Array) -> Float32Array:
    """v of the codes."""
    values = np.exp2(low + (codes.astype(np.float32) - np.float32(1)) * step)
    return np.where((codes == 0) & np.isfinite(step), np.float32(0), values)
