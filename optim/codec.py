"""The `state` of an optimizer by name or scheme: which codec stores each moment, and the plain tensors it is stored in.

A parameter's state is a dict of tensors, so that `state_dict`, safetensors and torch.distributed.checkpoint need
nothing special:

    step              [] float32, on the CPU
    exp_avg           codes (uint8, int8) or values (bfloat16, float32) of m, of the parameter's shape
    exp_avg_scale     [groups, columns] float32, absent for bf16 and fp32
    exp_avg_sq, exp_avg_sq_scale      v likewise

With `fp32` these are the names and the tensors of torch.optim.AdamW. Groups are runs of the flattened parameter; the
first axis of a scale counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.kernels._moments_torch import decode_moment
from narrowgauge.kernels.moments import MomentCodec, check_moment, empty_moment, first_moment, second_moment

StateOption = str | Scheme | tuple[str | Scheme, str | Scheme]
"""A codec's name or a scheme for both moments, or one for each."""

State = dict[str, Any]
MOMENTS = ("exp_avg", "exp_avg_sq")


class StateBytes(NamedTuple):
    """Memory of optimizer states: `total` bytes for `parameters` elements."""

    total: int
    parameters: int

    @property
    def per_parameter(self) -> float:
        """Bytes per element; 0 where there are none."""
        return self.total / self.parameters if self.parameters else 0.0


def codec_names(state: Any) -> tuple[str, str]:
    """(name for m, name for v) of a `state` option, schemes as text. ValueError names the nearest codecs, TypeError
    other types."""
    if isinstance(state, str | Scheme):
        pair: tuple[Any, Any] = (state, state)
    elif isinstance(state, tuple | list) and len(state) == 2:
        pair = (state[0], state[1])
    else:
        raise TypeError(f"state: expected the name of a codec, a scheme, or a pair of them, for m and v, got {state!r}")
    names = tuple(str(part) if isinstance(part, Scheme) else part for part in pair)
    first_moment(names[0])
    second_moment(names[1])
    return names[0], names[1]


def plain_option(state: Any) -> Any:
    """A checked `state` option without objects: schemes as text."""
    if isinstance(state, str):
        return state
    names = codec_names(state)
    return names[0] if isinstance(state, Scheme) else names


def _codecs(names: tuple[str, str]) -> tuple[MomentCodec, MomentCodec]:
    return first_moment(names[0]), second_moment(names[1])


def new_state(p: Tensor, names: tuple[str, str]) -> State:
    """The state of a parameter before its first step: zeros, stored."""
    state: State = {"step": torch.zeros((), dtype=torch.float32)}
    for key, codec in zip(MOMENTS, _codecs(names), strict=True):
        state[key], scale = empty_moment(codec, p)
        if scale is not None:
            state[f"{key}_scale"] = scale
    return state


def loaded_state(saved: Mapping[str, Any], p: Tensor, names: tuple[str, str]) -> State:
    """A copy of a saved state, on the parameter's device, every dtype kept.

    ValueError, naming the tensor, where it is not a state of this parameter under these codecs.
    """
    codecs = dict(zip(MOMENTS, _codecs(names), strict=True))
    expected = {"step", *MOMENTS} | {f"{key}_scale" for key, codec in codecs.items() if codec.columns}
    if set(saved) != expected:
        raise ValueError(
            f"state_dict: state {'/'.join(names)} has the entries {', '.join(sorted(expected))}, "
            f"got {', '.join(sorted(saved))}"
        )
    state: State = {"step": torch.as_tensor(saved["step"]).detach().to("cpu", torch.float32, copy=True)}
    for key in sorted(expected - {"step"}):
        state[key] = saved[key].detach().to(p.device, copy=True, memory_format=torch.contiguous_format)
    for key, codec in codecs.items():
        check_moment(codec, state[key], state.get(f"{key}_scale"), p.numel(), f"state_dict: {key}")
        state[key] = state[key].view(p.shape)
    return state


def decoded_moments(state: Mapping[str, Tensor], names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """m and v as float32 tensors of the parameter's shape."""
    m, v = (
        decode_moment(codec, state[key], state.get(f"{key}_scale"))
        for key, codec in zip(MOMENTS, _codecs(names), strict=True)
    )
    return m, v
