"""State dicts: our own, and those of the counterparts in torch.optim in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from narrowgauge.optim.codec import State, copied_moments, plain_option, state_keys
from narrowgauge.optim.sharded import as_parameter, local_state, local_value

if TYPE_CHECKING:
    from narrowgauge.optim.base import CompressedOptimizer

_BESIDE = ("param_names", "initial_lr")
"""Entries of groups that torch knows beside an optimizer's options: names, and what schedulers began with."""


def loaded_dict(
    optimizer: CompressedOptimizer, state_dict: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[Tensor, State]]:
    """The dict as torch is to load it (complete options, no states of known parameters), and those states.

    ValueError or TypeError for options and states that the optimizer cannot have.
    """
    groups, states, known = [], {}, set()
    for position, saved in enumerate(state_dict["param_groups"]):
        own = optimizer.param_groups[position] if position < len(optimizer.param_groups) else {}
        complete = {**{key: own[key] for key in optimizer.defaults if key in own}, **saved}
        complete["state"] = plain_option(complete["state"])
        optimizer.check_group(complete)
        groups.append(complete)
        for key, p in zip(saved["params"], own.get("params", ()), strict=False):  # torch refuses other numbers
            known.add(key)
            if key in state_dict["state"]:
                state = state_dict["state"][key]
                if "state" in saved:
                    states[p] = own_state(optimizer, state, p, complete)
                else:
                    states[p] = optimizer.state_from_torch(state, p, complete)
    others = {key: value for key, value in state_dict["state"].items() if key not in known}
    return {**state_dict, "state": others, "param_groups": groups}, states


def _names(keys: set[str]) -> str:
    return ", ".join(sorted(keys))


def _step(saved: Mapping[str, Any], like: Tensor) -> Tensor:
    return torch.as_tensor(saved["step"]).detach().to(like.device, torch.float32, copy=True)


def own_state(optimizer: CompressedOptimizer, saved: Mapping[str, Any], p: Tensor, group: Mapping[str, Any]) -> State:
    """A copy of a state that an optimizer of ours saved. ValueError, naming the tensor, where it does not fit."""
    moments, home = optimizer.moments_of(group), optimizer.state_device(p, group)
    state = optimizer.empty_state(p, group)
    saved = local_state(optimizer, saved, p, group)
    expected = set(state) | state_keys(moments)
    if set(saved) != expected:
        raise ValueError(
            f"state_dict: state {'/'.join(name for name in moments.names if name)}, master {group['master']} has the "
            f"entries {_names(expected)}, got {_names(set(saved))}"
        )
    for key, like in state.items():
        value = saved[key]
        if key != "step" and (value.dtype, value.shape) != (like.dtype, like.shape):
            raise ValueError(
                f"state_dict: {key}: expected {like.dtype} {tuple(like.shape)}, got {value.dtype} {tuple(value.shape)}"
            )
        state[key] = _step(saved, like) if key == "step" else value.detach().to(like.device, copy=True)
    state.update(copied_moments(saved, moments, optimizer.moment_shape(p, group), home))
    return optimizer.at_home(state, p, group)


def moments_from_torch(
    keys: Sequence[str], saved: Mapping[str, Any], p: Tensor, shape: torch.Size
) -> dict[str, Tensor]:
    """step and float32 moments of a state of torch.optim whose names are ours. A state without `step` (SGD's) is that
    of a first step. ValueError where it has other entries or shapes."""
    present = {key: value for key, value in saved.items() if value is not None}
    expected = {key for key in keys if key}
    if present.keys() - {"step"} != expected:
        raise ValueError(
            f"state_dict: a state of torch.optim for this optimizer has the entries {_names(expected | {'step'})}, "
            f"got {_names(set(saved))}"
        )
    read = {"step": torch.as_tensor(present.get("step", 1.0))}
    for key in expected:
        value = local_value(present[key], p, key)
        if value.shape != shape:
            raise ValueError(f"state_dict: {key}: expected the shape {tuple(shape)}, got {tuple(value.shape)}")
        read[key] = value.detach().float()
    return read


def torch_dict(optimizer: CompressedOptimizer) -> dict[str, Any]:
    """See `CompressedOptimizer.torch_state_dict`."""
    kind = type(optimizer)
    if kind.torch_class is None:
        raise TypeError(f"{kind.__name__}: torch.optim has no counterpart of this optimizer")
    # A group of its own gives the options that torch's optimizer needs, whatever its version.
    make: Callable[..., Optimizer] = kind.torch_class
    theirs = make([nn.Parameter(torch.zeros(1, 1))]).param_groups[0]
    result = optimizer.state_dict()
    flat = [p for group in optimizer.param_groups for p in group["params"]]
    groups = []
    for saved in result["param_groups"]:
        known = {key: value for key, value in saved.items() if key in theirs or key in _BESIDE}
        groups.append({**theirs, **known})
    states = {}
    for index, p in enumerate(flat):
        if optimizer.state.get(p):
            states[index] = as_parameter(optimizer.moments_to_torch(p, optimizer.group_of(p)), p)
    return {"state": states, "param_groups": groups}


def reencode(optimizer: CompressedOptimizer, p: Tensor, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Stores a parameter's moments anew, from group options `old` to `new`, with the residual that `new` asks for."""
    before = optimizer.state[p]
    m, v = optimizer.read(p, old)
    state = optimizer.new_state(p, new)
    for key in set(state) & set(optimizer.empty_state(p, old)):
        state[key] = before[key].to(state[key].device)
    optimizer.encode(state, p, new, m, v, int(before["step"]))
    optimizer.state[p] = state


@torch.no_grad()
def convert_group(optimizer: CompressedOptimizer, group: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Gives a group these options, `state` and `master`, and stores its states accordingly; as they are where the
    options are."""
    if any(group[key] != value for key, value in options.items()):
        for p in group["params"]:
            if optimizer.state.get(p):
                reencode(optimizer, p, group, {**group, **options})
        group.update(options)


def convert_state(optimizer: CompressedOptimizer, state: Any = None, master: str | None = None) -> None:
    """Stores the states of all groups in another way, in place: what they read back as is encoded by the codecs of
    `state`; `master` changes how weights take their updates (a new residual begins at zero, an old one is dropped).
    None leaves an option as it is. Errors are those of the constructor, before anything changes.

        convert_state(optimizer, state="log8")
    """
    changes = {"state": plain_option(state) if state is not None else None, "master": master}
    wanted = [{**group, **{k: v for k, v in changes.items() if v is not None}} for group in optimizer.param_groups]
    for group in wanted:
        optimizer.check_group(group)
        optimizer.check_parameters(group)
    for group, new in zip(optimizer.param_groups, wanted, strict=True):
        convert_group(optimizer, group, {"state": new["state"], "master": new["master"]})
