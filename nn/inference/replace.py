"""Putting another module in the places of a layer, and what goes with it: hooks, and paths that would pass it by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Hooks belong to the layer's place. The registries themselves move, so that handles still remove their hooks."""
    for kind in _HOOKS:
        new.__dict__[kind] = old.__dict__[kind]
        old.__dict__[kind] = OrderedDict()
    new._is_full_backward_hook, old._is_full_backward_hook = old._is_full_backward_hook, None


def places_of(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[tuple[Any, dict[str, nn.Module]]]:
    """Every wanted module below `model`, once, with the modules that hold it by its names there. What is inside of a
    wanted module is looked at, too."""
    found: dict[int, tuple[nn.Module, dict[str, nn.Module]]] = {}
    for prefix, parent in model.named_modules(remove_duplicate=False):
        # Not named_children, which leaves out the second place of a layer within one parent.
        for attribute, child in parent._modules.items():
            if child is not None and wanted(child):
                name = f"{prefix}.{attribute}" if prefix else attribute
                found.setdefault(id(child), (child, {}))[1][name] = parent
    return list(found.values())


def put(old: nn.Module, new: nn.Module, places: dict[str, nn.Module]) -> None:
    """`new` in all places of `old`, with its hooks."""
    move_hooks(old, new)
    for name, parent in places.items():
        setattr(parent, name.rpartition(".")[2], new)
