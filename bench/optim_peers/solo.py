"""SOLO's states of 4 and 2 bits (arXiv 2505.00347): a signed dynamic map for m, an unsigned logarithm for v.

Groups of 128, a = max x, b bits:

    α = (x_q / a)^(1 / (2^b - 1)), x_q the quantile 0.1 of the group
    code = round(log(x / a) / log(α) + U(-1/2, 1/2)), 0 to 2^b - 1      v̂ = α^code · a

Rounding is stochastic in the logarithm, so that the mean of v̂ is above v: about 1 + log(α)² / 8 for each write. Where
the quantile is 0, α is 0 and all of the group reads back as a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from narrowgauge.bench.optim_peers.arrays import (
    Float32Array,
    amax,
    draws,
    grouped,
    nearest_codes,
    or_one,
    quiet,
    ungrouped,
)
from narrowgauge.bench.optim_peers.dynamic import SIGNED_4BIT
from narrowgauge.formats import pack, unpack

GROUP = 128
QUANTILE = 0.1


@dataclass(frozen=True)
class Solo:
    """m in 4 bits, v in 2, as its authors' main setting."""

    name: str = "SOLO 4/2"

    group = GROUP
    stochastic = True
    bits = 2
    bytes_per_parameter = 0.5 + 0.25 + 3 * 4 / GROUP

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Any, ...]:
        """Codes and numbers of both moments, and their shape."""
        first, second = grouped(m, GROUP), grouped(v, GROUP)
        scale, top = amax(first), amax(second)
        codes_m = nearest_codes(first / or_one(scale), SIGNED_4BIT)
        base = (_quantile(second) / top) ** np.float32(1 / ((1 << self.bits) - 1))
        noise = (draws(second.shape, seed, 0) + np.float32(0.5)) / np.float32(1 << 16) - np.float32(0.5)
        y = np.rint(np.log(second / top) / np.log(base) + noise)
        codes_v = np.clip(np.nan_to_num(y, posinf=np.inf), 0, (1 << self.bits) - 1).astype(np.uint8)
        return pack(codes_m.reshape(-1), 4), scale, pack(codes_v.reshape(-1), self.bits), top, base, m.shape

    @quiet
    def load(self, state: tuple[Any, ...]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        codes_m, scale, codes_v, top, base, shape = state
        count = scale.shape[0] * GROUP
        m = np.array(SIGNED_4BIT, np.float32)[unpack(codes_m, 4, count)].reshape(-1, GROUP) * scale
        powers = unpack(codes_v, self.bits, count).reshape(-1, GROUP).astype(np.float32)
        v = np.where(powers == 0, np.float32(1), base**powers) * top
        return ungrouped(m, shape), ungrouped(v, shape)


def _quantile(groups: Float32Array) -> Float32Array:
    """The quantile of each group, interpolated between its neighbours, [groups, 1]."""
    place = QUANTILE * (GROUP - 1)
    low = int(place)
    ordered = np.partition(groups, (low, low + 1), axis=1)
    below, above = ordered[:, low : low + 1], ordered[:, low + 1 : low + 2]
    return below + np.float32(place - low) * (above - below)
