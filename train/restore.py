"""Giving saved state back to models and optimizers without changing a bit of it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train.whole_state import cut, is_sharded, placed


def restore_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """``model.load_state_dict`` for the very same names, shapes and dtypes; whole tensors go to a model in shards too.

    Raises ``ValueError`` that names the first difference, before anything is changed (torch would cast dtypes
    silently).
    """
    ours = {name: _describe(value) for name, value in model.state_dict().items()}
    theirs = {name: _describe(value) for name, value in saved.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"model: {name} is {theirs.get(name, 'absent')} in the checkpoint,"
                f" {ours.get(name, 'absent')} in this model"
            )
    model.load_state_dict(placed(saved, model.state_dict()))


def _describe(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict`` that keeps every tensor's dtype.

    torch's own casts each state tensor to its parameter's dtype, which turns uint8 codes into floats. Its choice of
    device is kept; values and dtypes are the saved ones, and whole tensors of a parameter that is in shards are cut as
    it is. An optimizer with a ``load_state_dict`` of its own knows what its states are. Raises ``ValueError`` for other
    parameter groups.
    """
    for ours, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=False):
        if ours.get("param_names") != theirs.get("param_names"):
            raise ValueError("optimizer: the checkpoint's parameter groups hold other parameters than this one's")
    if type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict:
        optimizer.load_state_dict(dict(saved))
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved_order = [index for group in saved["param_groups"] for index in group["params"]]
    pairs = [pair for pair in zip(saved_order, parameters, strict=True) if pair[0] in saved["state"]]
    state = {index: _as_parameter(saved["state"][index], parameter) for index, parameter in pairs}
    optimizer.load_state_dict({**saved, "state": {**saved["state"], **state}})
    for index, parameter in pairs:
        optimizer.state[parameter] = _uncast(optimizer.state[parameter], state[index])


def _as_parameter(state: Mapping[str, Any], parameter: Tensor) -> Mapping[str, Any]:
    if not is_sharded(parameter):
        return state
    return {
        key: cut(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for key, value in state.items()
    }


def _uncast(loaded: Any, saved: Any) -> Any:
    if isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict):
        return {key: _uncast(loaded[key], value) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_uncast(a, b) for a, b in zip(loaded, saved, strict=True))
    return loaded
