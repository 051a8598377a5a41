"""E4M3 states without range expansion: a scale for each group, or one for the whole tensor.

Grouped (torchao's AdamWFp8, groups of 256; COAT's own code without its expansion, groups of 128):

    s = max(max|x|, 1e-12) / 448      code = E4M3(x / s)      x̂ = code · s

FP8-LM (Peng et al., arXiv 2310.18313; MS-AMP's LBAdamW): m in E4M3 and v in float16, each with one power of two,

    s = 2^floor(log2(largest / max|x|)), largest = 448 and 65504      code = format(x · s)      x̂ = code / s

A small v becomes zero in the grouped codecs, and a small m of a tensor in FP8-LM: nothing keeps them apart from it.
torchao leaves tensors of less than 4096 elements, and those that the group does not divide, in float32; not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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

FLOAT16_MAX = 65504.0
LEAST = np.float32(1e-12)


class Scaled(NamedTuple):
    """Codes [groups, group] and scales [groups, 1] of one moment."""

    codes: Codes
    scale: Float32Array


@dataclass(frozen=True)
class GroupedE4M3:
    """Both moments in E4M3 with a float32 scale for each group."""

    name: str
    group: int

    stochastic = False

    @property
    def bytes_per_parameter(self) -> float:
        """Of both moments."""
        return 2 * (1 + 4 / self.group)

    @quiet
    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> tuple[Scaled, Scaled, tuple[int, ...]]:
        """Both moments and their shape."""
        return self._stored(m), self._stored(v), m.shape

    @quiet
    def load(self, state: tuple[Scaled, Scaled, tuple[int, ...]]) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        first, second, shape = state
        m, v = (ungrouped(values_of("e4m3fn")[part.codes] * part.scale, shape) for part in (first, second))
        return m, v

    def _stored(self, x: Float32Array) -> Scaled:
        groups = grouped(x, self.group)
        largest: Float32Array = np.maximum(amax(groups), LEAST)
        scale = largest / np.float32(E4M3_MAX)
        return Scaled(e4m3_codes(groups / scale), scale)


@dataclass(frozen=True)
class PerTensor:
    """FP8-LM: E4M3 for m, float16 for v, one scale each."""

    name: str = "FP8-LM"

    stochastic = False
    bytes_per_parameter = 3.0

    @quiet
    def store(
        self, m: Float32Array, v: Float32Array, seed: int = 0
    ) -> tuple[Codes, Float32Array, NDArray[np.float16], Float32Array]:
        """Codes and scale of m, values and scale of v."""
        first, second = _power_of_two(m, E4M3_MAX), _power_of_two(v, FLOAT16_MAX)
        return e4m3_codes(m * first), first, (v * second).astype(np.float16), second

    @quiet
    def load(
        self, state: tuple[Codes, Float32Array, NDArray[np.float16], Float32Array]
    ) -> tuple[Float32Array, Float32Array]:
        """m and v as they read back."""
        codes, first, values, second = state
        return values_of("e4m3fn")[codes] / first, values.astype(np.float32) / second


def _power_of_two(x: Float32Array, largest: float) -> Float32Array:
    """The factor, of one element; 1 for a tensor of zeros."""
    top = np.abs(x).max(initial=np.float32(0))
    exponent = np.floor(np.log2(np.float32(largest) / top)) if top != 0 else np.float32(0)
    return np.exp2(np.asarray(exponent, np.float32)).reshape(1)
