"""The optimizer's state codecs in the form that `numerics.check_optimizer` takes: arrays in, a state, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.kernels._moments_torch import Scratch, decode_moment, encode_block, parts
from narrowgauge.kernels.moments import MomentCodec, empty_moment, first_moment, second_moment
from narrowgauge.optim.codec import codec_names

Float32Array = NDArray[np.float32]
Stored = tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class NamedCodec:
    """What `AdamW(state=…)` stores of m and v, by the CPU's implementation. Deterministic: the seed is not used."""

    first: MomentCodec
    second: MomentCodec
    name: str

    stochastic = False

    @property
    def group(self) -> int:
        """Elements that share numbers: of the moment with the longer groups."""
        return max(self.first.group, self.second.group)

    @property
    def bytes_per_parameter(self) -> float:
        """Of both moments, where groups are whole."""
        return self.first.bytes_per_parameter + self.second.bytes_per_parameter

    def store(self, m: Float32Array, v: Float32Array, seed: int = 0) -> Stored:
        """Codes and groups' numbers of both moments (float32 arrays of one shape)."""
        return _encoded(self.first, m), _encoded(self.second, v)

    def load(self, state: Stored) -> tuple[Float32Array, Float32Array]:
        """m and v, of the shape they were stored with."""
        first, second = state
        return _decoded(self.first, *first), _decoded(self.second, *second)


def named_codec(state: Any) -> NamedCodec:
    """The codec of a `state` option of `AdamW`: a name, a scheme, or a pair of them.

    ValueError names the nearest codecs, TypeError other types.
    """
    names = codec_names(state)
    text = names[0] if names[0] == names[1] else "/".join(names)
    return NamedCodec(first_moment(names[0]), second_moment(names[1]), text)


def _encoded(codec: MomentCodec, x: Float32Array) -> tuple[Tensor, Tensor | None]:
    values = torch.from_numpy(np.array(x, dtype=np.float32))
    codes, scale = empty_moment(codec, values)
    if scale is None:
        codes.copy_(values)
        return codes, None
    count = values.numel()
    scratch = Scratch(count)
    for part in parts(codec, codes.view(-1), scale, values.view(-1), 0, count):
        encode_block(*part, scratch)
    return codes, scale


def _decoded(codec: MomentCodec, codes: Tensor, scale: Tensor | None) -> Float32Array:
    return np.asarray(decode_moment(codec, codes, scale).numpy())
