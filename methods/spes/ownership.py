"""Which node trains which expert: with M experts on N nodes, node ``i`` owns those ``e`` with ``e // (M / N) = i``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from narrowgauge.train.moe import moe_layers

_EXPERT = re.compile(r"experts\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Ownership:
    """A partition of ``num_experts`` among ``num_nodes``; ``ValueError`` where they cannot be shared evenly."""

    num_experts: int
    num_nodes: int

    def __post_init__(self) -> None:
        if self.num_nodes < 1 or self.num_experts % self.num_nodes:
            raise ValueError(
                f"nodes: expected a divisor of the {self.num_experts} experts, at least 1, got {self.num_nodes}"
            )

    @classmethod
    def of(cls, model: nn.Module, num_nodes: int) -> Ownership:
        """For the mixtures of ``model``, which must all have the same number of experts."""
        counts = {len(layer.experts) for _, layer in moe_layers(model)}
        if len(counts) > 1:
            raise ValueError(f"model: expected the same number of experts in every layer, got {sorted(counts)}")
        return cls(counts.pop(), num_nodes)

    def experts(self, node: int) -> range:
        """The experts of a node."""
        if not 0 <= node < self.num_nodes:
            raise ValueError(f"node: expected 0 … {self.num_nodes - 1}, got {node}")
        share = self.num_experts // self.num_nodes
        return range(node * share, (node + 1) * share)

    def owner(self, expert: int) -> int:
        """The node of an expert."""
        if not 0 <= expert < self.num_experts:
            raise ValueError(f"expert: expected 0 … {self.num_experts - 1}, got {expert}")
        return expert // (self.num_experts // self.num_nodes)


def parameter_experts(model: nn.Module) -> dict[str, int | None]:
    """Name of each parameter → the expert that it belongs to, or ``None`` where it is shared by all tokens."""
    prefixes = tuple(f"{name}." if name else "" for name, _ in moe_layers(model))
    found: dict[str, int | None] = {}
    for name, _ in model.named_parameters():
        inner = next((name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)), "")
        match = _EXPERT.match(inner)
        found[name] = int(match[1]) if match else None
    return found


def keep_to_own(model: nn.Module, ownership: Ownership, node: int) -> None:
    """Freeze the experts of other nodes: no gradient is computed for them, no optimizer holds or decays them."""
    own = ownership.experts(node)
    parameters = dict(model.named_parameters())
    for name, expert in parameter_experts(model).items():
        if expert is not None:
            parameters[name].requires_grad_(expert in own)
