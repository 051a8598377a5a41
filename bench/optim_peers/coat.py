"""COAT's range-expanded E4M3 states (Xi et al., arXiv 2410.19313, and the CUDA kernel its authors released).

Groups of 128 of the flattened tensor, float32 arithmetic. With a = max|x| + 1e-30, b = min|x| + 1e-30, R = a / b:

    c = sqrt(a) · sqrt(b)      k = floor(16 · log2(448² / 2) / log2(R)) / 16     (paper: k = log_R(448 / 2^-9))
    s = (a / c)^k / 448        code = E4M3(sign(x) · (|x| / c)^k / s)
    x̂ = sign(code) · |code · s|^(1 / k) · c                                        stored: code, s, k, c

What is wrong with the released kernel is kept:

* A constant group, or a last group of one element, has R = 1 and k = ∞: NaN, or luck.
* The minimum "of the values that are not zero" is a tree over lanes, 32 to a warp and then 4 warps, in which a lane
  leaves out a zero that arrives but not its own. A zero in lane 0 makes the minimum 0; one in lane 32 hides warps 1
  and 3.
* Nothing bounds the range: one tiny value costs all others of its group their precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from narrowgauge.bench.optim_peers.arrays import (
    E4M3_MAX,
    Codes,
    Float32Array,
    amax,
    e4m3_codes,
    grouped,
    quiet,
    ungrouped,
    values_of,
)

GROUP = 128
WARP = 32
FLOOR = np.float32(1e-30)
KERNEL_RANGE = E4M3_MAX**2 / 2
PAPER_RANGE = E4M3_MAX / 2.0**-9


class Expanded(NamedTuple):
    """One stored moment: codes and, [groups, 1], the three numbers of a group."""

    codes: Codes
    scale: Float32Array
    power: Float32Array
    center: Float32Array


@dataclass(frozen=True)
class Coat:
    """released: the kernel, with powers in steps of 1/16 and its minimum; else the paper's formula, without zeros.
    target: the range that k stretches a group to."""

    name: str
    released: bool
    target: float

    group = GROUP
    stochastic = False
    bytes_per_parameter = 2 * (1 + 3 * 4 / GROUP)

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Expanded, Expanded, tuple[int, ...]]:
        """Both moments and their shape."""
        return self.expand(m), self.expand(v), m.shape

    @quiet
    def load(self, state: tuple[Expanded, Expanded, tuple[int, ...]]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        first, second, shape = state
        return ungrouped(contract(first), shape), np.abs(ungrouped(contract(second), shape))

    def expand(self, x: Float32Array) -> Expanded:
        """One moment, stored."""
        groups = grouped(x, GROUP)
        smallest = _smallest_of_lanes(groups, x.size) if self.released else _smallest(groups)
        largest, smallest = amax(groups) + FLOOR, smallest + FLOOR
        octaves = np.log2(largest / smallest)
        power = np.float32(np.log2(self.target)) / octaves
        if self.released:
            power = np.floor(np.float32(16) * power) / np.float32(16)
        center = np.sqrt(largest) * np.sqrt(smallest)
        scale = (largest / center) ** power / np.float32(E4M3_MAX)
        y = np.sign(groups) * (np.abs(groups) / center) ** power / scale
        return Expanded(e4m3_codes(y), scale, power, center)


def contract(stored: Expanded) -> Float32Array:
    """[groups, 128] of a stored moment."""
    y = values_of("e4m3fn")[stored.codes] * stored.scale
    return np.sign(y) * np.abs(y) ** (np.float32(1) / stored.power) * stored.center


def _smallest(groups: Float32Array) -> Float32Array:
    magnitude = np.abs(groups)
    smallest = np.where(magnitude > 0, magnitude, np.float32(np.inf)).min(axis=1, keepdims=True)
    return np.where(np.isinf(smallest), np.float32(0), smallest)


def _smallest_of_lanes(groups: Float32Array, count: int) -> Float32Array:
    """The kernel's minimum, [groups, 1]. Lanes past the end of the tensor take no part."""
    magnitude = np.abs(groups)
    if count % GROUP:
        magnitude[-1, count % GROUP :] = np.inf
    warps = _halved(magnitude.reshape(-1, GROUP // WARP, WARP))
    return _halved(warps.reshape(-1, GROUP // WARP))


def _halved(lanes: Float32Array) -> Float32Array:
    """Lane 0 of a tree over the last axis: each lane takes the smaller of its own and the value half-way up, if that
    is not zero. [..., 1]"""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        own, other = lanes[..., :half], lanes[..., half:]
        lanes = np.where(other != 0, np.minimum(own, other), own)
    return lanes
