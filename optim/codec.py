"""The `state` of an optimizer by name or scheme: which codec stores each moment, and the plain tensors it is stored in.

A parameter's state is a dict of plain tensors, so that `state_dict`, safetensors and torch.distributed.checkpoint need
nothing special. With AdamW's names for the moments:

    step              [] float32, on the CPU (on the parameter's device if capturable)
    exp_avg           codes (uint8, int8) or values (bfloat16, float32) of m, of the parameter's shape; packed codes of
                      at most 4 bits flat
    exp_avg_scale     [groups, columns], the groups' numbers (kernels/moments.py); absent for bf16 and fp32
    exp_avg_sq, exp_avg_sq_scale      v likewise
    residual          int8, of the parameter's shape, for master="residual"

With `fp32` these are the names and the tensors of torch.optim's optimizers. Groups are runs of the flattened parameter;
the first axis of a scale counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.kernels.codecs import first_moment, lone_moment, second_moment
from narrowgauge.kernels.moments import MomentCodec, check_moment, empty_moment
from narrowgauge.kernels.stored_moments import Stored

StateOption = str | Scheme | tuple[str | Scheme, str | Scheme]
"""A codec's name or a scheme for both moments, or one for each."""

State = dict[str, Any]


class Moments(NamedTuple):
    """How the moments of a parameter are stored: of the first and the second, codec (None for a moment that there is
    not), name of the codec ("" likewise) and name of the state. unfused: why the operator `optimizer_step` cannot store
    them, "" where it can."""

    first: MomentCodec | None
    second: MomentCodec | None
    names: tuple[str, str]
    keys: tuple[str, str]
    unfused: str

    @property
    def present(self) -> tuple[tuple[str, MomentCodec], ...]:
        """(name of the state, codec) of the moments that there are."""
        pairs = zip(self.keys, (self.first, self.second), strict=True)
        return tuple((key, codec) for key, codec in pairs if codec is not None)

    @property
    def bytes_per_parameter(self) -> float:
        """Of all of them, where groups are whole."""
        return sum(codec.bytes_per_parameter for _, codec in self.present)


def codec_names(state: Any, keys: tuple[str, str] = ("exp_avg", "exp_avg_sq")) -> tuple[str, str]:
    """(name for m, name for v) of a `state` option, schemes as text; "" for a moment whose entry in `keys` is empty.

    ValueError names the nearest codecs, TypeError other types.
    """
    if isinstance(state, str | Scheme):
        pair: tuple[Any, Any] = (state, state)
    elif isinstance(state, tuple | list) and len(state) == 2:
        pair = (state[0], state[1])
    else:
        raise TypeError(f"state: expected the name of a codec, a scheme, or a pair of them, for m and v, got {state!r}")
    first, second = (str(part) if isinstance(part, Scheme) else part for part in pair)
    if keys[0] or not keys[1]:
        first_moment(first)
    if keys[1] or not keys[0]:
        second_moment(second)
    return first if keys[0] else "", second if keys[1] else ""


def moments_of(state: Any, keys: tuple[str, str], related: bool = True) -> Moments:
    """What a `state` option means for moments of the names `keys`; errors as `codec_names`.

    related: the first moment is of the size of the second's root, as Adam's is, so that codecs may store it relative to
    that; else they store it as it is.
    """
    names = codec_names(state, keys)
    first = second = None
    if keys[0]:
        first = first_moment(names[0]) if keys[1] and related else lone_moment(names[0])
    if keys[1]:
        second = second_moment(names[1])
    unfused = ""
    for name, codec in (("m", first), ("v", second)):
        if codec is not None and not codec.fused:
            unfused = f"{codec.kind} codes of {name} need the whole tensor"
    return Moments(first, second, names, keys, unfused)


def plain_option(state: Any) -> Any:
    """A `state` option without objects: schemes as text."""
    if isinstance(state, tuple | list):
        return tuple(plain_option(part) for part in state)
    return str(state) if isinstance(state, Scheme) else state


def empty_moments(moments: Moments, shape: torch.Size, device: torch.device) -> State:
    """The stored zeros of all moments."""
    like = torch.empty((), device=device).expand(shape)
    state: State = {}
    for key, codec in moments.present:
        state[key], scale = empty_moment(codec, like)
        if scale is not None:
            state[f"{key}_scale"] = scale
    return state


def stored(state: Mapping[str, Tensor], key: str) -> Stored | None:
    """A moment of a state as the functions of kernels/stored_moments.py take it; None where `key` is empty."""
    return Stored(state[key], state.get(f"{key}_scale")) if key else None


def state_keys(moments: Moments) -> set[str]:
    """Names of the tensors that `empty_moments` has."""
    scales = {f"{key}_scale" for key, codec in moments.present if codec.columns}
    return {key for key, _ in moments.present} | scales


def copied_moments(saved: Mapping[str, Any], moments: Moments, shape: torch.Size, device: torch.device) -> State:
    """A copy of the moments of a saved state, on `device`, every dtype kept. ValueError, naming the tensor, where it is
    not a state of a parameter of `shape` under these codecs."""
    state: State = {}
    for key in sorted(state_keys(moments)):
        state[key] = saved[key].detach().to(device, copy=True, memory_format=torch.contiguous_format)
    for key, codec in moments.present:
        check_moment(codec, state[key], state.get(f"{key}_scale"), shape, f"state_dict: {key}")
        state[key] = state[key].view(codec.codes_shape(shape))
    return state
