"""The optimizer's state codecs in the form that `numerics.check_optimizer` takes: arrays in, a state, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from narrowgauge.kernels.codecs import first_moment, second_moment
from narrowgauge.kernels.moments import MomentCodec, empty_moment
from narrowgauge.kernels.random_words import FIRST, SECOND, key_of
from narrowgauge.kernels.stored_moments import Stored, read_moments, write_moments
from narrowgauge.optim.codec import codec_names

Float32Array = NDArray[np.float32]


class StoredPair(NamedTuple):
    """Both moments as they are stored, the keys they drew under, and their shape."""

    m: Stored
    v: Stored
    keys: tuple[int, int]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NamedCodec:
    """What `AdamW(state=…)` stores of m and v, by torch on the CPU."""

    first: MomentCodec
    second: MomentCodec
    name: str

    @property
    def stochastic(self) -> bool:
        """Whether seeds matter."""
        return self.first.draws or self.second.draws

    @property
    def unbiased(self) -> tuple[str, ...]:
        """The moments whose rounding is unbiased: SOLO's is so in the logarithm alone."""
        pair = {"m": self.first, "v": self.second}
        return tuple(name for name, codec in pair.items() if codec.draws and codec.kind != "quantile")

    @property
    def resolution(self) -> float:
        """Share of a group's largest m / √v that is told from zero: half a step of a dithered code, decoded, and twice
        that because v̂ is dithered as well; else 0."""
        half = 0.5 / self.first.levels if self.first.rounding == "dither" else 0.0
        return 2.0 * half / (2.0 - half)

    @property
    def group(self) -> int:
        """Elements that share numbers: of the moment with the longer groups."""
        return max(self.first.group, self.second.group)

    @property
    def bytes_per_parameter(self) -> float:
        """Of both moments, where groups are whole."""
        return self.first.bytes_per_parameter + self.second.bytes_per_parameter

    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> StoredPair:
        """Codes and groups' numbers of both moments (float32 arrays of one shape)."""
        wide_m, wide_v = (torch.from_numpy(np.array(x, dtype=np.float32)) for x in (m, v))
        keys = key_of(seed, FIRST, 1), key_of(seed, SECOND, 1)
        state = StoredPair(
            Stored(*empty_moment(self.first, wide_m)), Stored(*empty_moment(self.second, wide_v)), keys,
            tuple(wide_m.shape),
        )  # fmt: skip
        write_moments(self.first, self.second, wide_m, wide_v, state.m, state.v, keys)
        return state

    def load(self, state: StoredPair) -> tuple[Float32Array, Float32Array]:
        """m and v, of the shape they were stored with."""
        m, v = read_moments(self.first, self.second, state.m, state.v, torch.Size(state.shape), state.keys)
        return np.asarray(m), np.asarray(v)


def named_codec(state: Any) -> NamedCodec:
    """The codec of a `state` option of `AdamW`: a name, a scheme, or a pair of them.

    ValueError names the nearest codecs, TypeError other types.
    """
    names = codec_names(state)
    text = names[0] if names[0] == names[1] else "/".join(names)
    return NamedCodec(first_moment(names[0]), second_moment(names[1]), text)
