"""State dicts of parameters that are DTensors, and their exchange with those of whole parameters.

In memory a state is plain tensors, those of the local shard. In `state_dict()` every tensor of a parameter that is cut
(but `step`) is a DTensor over the same mesh, placed as the parameter, its moments in the form of optim/by_rows.py: so
torch.distributed.checkpoint saves and loads them like any others, at another number of processes too. `load_state_dict`
takes them back, and the tensors of a whole parameter, of which each process keeps its rows: from
`get_optimizer_state_dict(full_state_dict=True)`, a file, or an optimizer of whole parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from narrowgauge.kernels.moments import check_moment
from narrowgauge.kernels.random_words import FIRST, SECOND
from narrowgauge.optim.by_rows import by_rows, cut_groups, in_memory, is_intact, read_rows, row_layout
from narrowgauge.optim.codec import Moments, State, empty_moments, state_keys
from narrowgauge.optim.gather import own_part
from narrowgauge.optim.local import as_shard, cut_axis, is_dtensor, local_tensor

if TYPE_CHECKING:
    from narrowgauge.optim.states import StoredStates


def has_shards(params: Sequence[Tensor]) -> bool:
    """Whether one of the parameters is cut."""
    return any(cut_axis(p) is not None for p in params)


def share(optimizer: StoredStates, states: dict[Any, Any]) -> None:
    """Replaces the states of parameters that are cut, in the `state` of a state dict, by what is saved of them."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            index = optimizer.position(p)
            if index in states and cut_axis(p) is not None:
                states[index] = _shared(states[index], p, optimizer.moments_of(group))


def _shared(state: Mapping[str, Any], p: Tensor, moments: Moments) -> State:
    rows = by_rows(state, moments, local_tensor(p).tensor.shape)
    if "residual" in state:
        rows["residual"] = state["residual"]
    return {**state, **{key: as_shard(value, p) for key, value in rows.items()}}


def as_parameter(moments: Mapping[str, Tensor], p: Tensor) -> dict[str, Tensor]:
    """Local tensors of the parameter's shape as DTensors, where the parameter is one; others as they are."""
    if not is_dtensor(p):
        return dict(moments)
    shape = local_tensor(p).tensor.shape
    return {key: as_shard(value, p) if value.shape == shape else value for key, value in moments.items()}


def local_value(value: Tensor, p: Tensor, name: str) -> Tensor:
    """The rows of a saved tensor that this process holds of the parameter p. value: a DTensor cut as p is, or the whole
    tensor. ValueError, with the tensor's name, for other DTensors."""
    if is_dtensor(value) and cut_axis(value) is None:
        value = value.to_local()
    if not is_dtensor(value):
        return own_part(value, p) if cut_axis(p) is not None else value
    if not is_dtensor(p) or value.device_mesh != p.device_mesh or value.placements != p.placements:
        wanted = f"one placed as {p.placements} over {p.device_mesh}" if is_dtensor(p) else "a plain tensor"
        raise ValueError(
            f"state_dict: {name}: expected {wanted}, as its parameter is, or the whole tensor, got a DTensor placed as "
            f"{value.placements} over {value.device_mesh}"
        )
    return value.to_local()


def local_state(
    optimizer: StoredStates, saved: Mapping[str, Any], p: Tensor, group: Mapping[str, Any]
) -> Mapping[str, Any]:
    """A saved state as it is in memory: the local part of what is cut, with the groups of this process's shard.

    A state that has other entries than such a state is returned as it is. ValueError, naming the tensor, for shapes
    and placements that do not fit the parameter.
    """
    moments, cut = optimizer.moments_of(group), cut_axis(p) is not None
    whole = p.shape if cut else optimizer.moment_shape(p, group)
    if not state_keys(moments) <= saved.keys() or not (cut or _is_by_rows(saved, moments, whole)):
        return saved
    rows = _local_rows(saved, p, moments, whole)
    local, others = local_tensor(p), dict(saved)
    if "residual" in saved:
        others["residual"] = local_value(saved["residual"], p, "residual")
    if is_intact(rows, moments, local.tensor.shape):
        return {**others, **in_memory(rows, moments, local.tensor.shape)}
    step = int(saved["step"])
    keys = optimizer.key(p, group, FIRST, step), optimizer.key(p, group, SECOND, step)
    m, v = read_rows(rows, moments, local.tensor.shape, keys, local.row)
    state = empty_moments(moments, local.tensor.shape, optimizer.state_device(p, group))
    optimizer.encode(state, p, group, m, v, step)
    return {**others, **state}


def _is_by_rows(saved: Mapping[str, Any], moments: Moments, shape: torch.Size) -> bool:
    """Whether a state is in the form of optim/by_rows.py, and not in that of a whole parameter in memory."""
    numbers = [(saved[f"{key}_scale"], codec.scale_shape(shape)) for key, codec in moments.present if codec.columns]
    return any(value.ndim > len(expected) for value, expected in numbers)


def _local_rows(saved: Mapping[str, Any], p: Tensor, moments: Moments, whole: torch.Size) -> State:
    """The local part of the moments, by rows."""
    layout, rows = row_layout(moments, whole), saved
    if not _is_by_rows(saved, moments, whole):
        for key, codec in moments.present:
            check_moment(codec, saved[key], saved.get(f"{key}_scale"), whole, f"state_dict: {key}")
        rows = by_rows(saved, moments, whole)
    result = State()
    for key, expected in layout.items():
        value = rows[key]
        if (tuple(value.shape), value.dtype) != expected:
            raise ValueError(
                f"state_dict: {key}: expected {expected.dtype} {expected.shape}, got {value.dtype} {tuple(value.shape)}"
            )
        result[key] = local_value(value.detach(), p, key)
    return result


def note(params: Sequence[Tensor], moments: Moments) -> str:
    """What `explain` says of a group whose parameters are cut; "" where none is."""
    cut = [p for p in params if cut_axis(p) is not None]
    if not cut:
        return ""
    uneven = sum(cut_groups(moments, p.shape) for p in cut)
    if not uneven:
        return ", in shards of whole groups"
    return f", in shards; groups of {uneven} parameters begin with each shard, and change if it is cut otherwise"
