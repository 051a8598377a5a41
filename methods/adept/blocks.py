"""The repeated blocks of a model: where they are, and how copies that change nothing are put among them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

OUTPUTS = ("o_proj", "down_proj")
"""Names of the layers that write to the residual stream, one for attention and one for the MLP."""


def block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the model's blocks, the ``nn.ModuleList`` with the most parameters; ``ValueError`` without."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError("model: expected one with an nn.ModuleList of blocks")
    return max(lists, key=lambda named: sum(p.numel() for p in named[1].parameters()))


@torch.no_grad()
def neutral_copy(block: nn.Module, outputs: Collection[str] = OUTPUTS) -> nn.Module:
    """A copy, with storage of its own, that adds nothing to the residual stream; all of it trainable.

    The layers called ``outputs`` get zero weights and biases. Raises ``ValueError`` where one is missing.
    """
    twin = copy.deepcopy(block)
    found = set()
    for name, module in twin.named_modules():
        last = name.rpartition(".")[2]
        if last in outputs:
            found.add(last)
            for parameter in module.parameters():
                parameter.zero_()
    if missing := sorted(set(outputs) - found):
        raise ValueError(f"outputs: {type(block).__name__} has no layer called {missing[0]!r}")
    twin.requires_grad_(True)
    return twin


def insert_copies(model: nn.Module, chosen: Collection[int], outputs: Collection[str] = OUTPUTS) -> dict[str, str]:
    """Put a :func:`neutral_copy` behind each chosen block, in place, and freeze everything else.

    Returns old → new names of the parameters that were there. Raises ``ValueError`` for a block that is not there.
    """
    prefix, blocks = block_list(model)
    if wrong := [index for index in chosen if not 0 <= index < len(blocks)]:
        raise ValueError(f"layers: expected blocks among 0 … {len(blocks) - 1}, got {wrong[0]}")
    model.requires_grad_(False)
    expanded, positions = nn.ModuleList(), {}
    for index, block in enumerate(blocks):
        positions[index] = len(expanded)
        expanded.append(block)
        if index in chosen:
            expanded.append(neutral_copy(block, outputs))
    renamed = {
        f"{prefix}.{index}.{name}": f"{prefix}.{position}.{name}"
        for index, position in positions.items()
        for name in blocks[index].state_dict()
        if index != position
    }
    parent, _, attribute = prefix.rpartition(".")
    setattr(model.get_submodule(parent), attribute, expanded)
    config: Any = getattr(model, "config", None)
    if dataclasses.is_dataclass(config) and not isinstance(config, type) and hasattr(config, "num_layers"):
        model.config = dataclasses.replace(config, num_layers=len(expanded))  # type: ignore[assignment]
    return renamed
