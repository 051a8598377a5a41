"""What nodes tell each other: shared weights become their mean, an expert becomes its owner's copy.

Sums run in float32 in the order of the nodes. Optimizer states stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from narrowgauge.methods.spes.ownership import Ownership, parameter_experts


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one node sends and receives in one exchange."""

    upload: int
    download: int

    @property
    def total(self) -> int:
        """Both directions."""
        return self.upload + self.download


def _mean(copies: Sequence[Tensor]) -> Tensor:
    total = copies[0].float()
    for copy in copies[1:]:
        total = total + copy.float()
    return total / len(copies)


@torch.no_grad()
def exchange_experts(models: Sequence[nn.Module], ownership: Ownership) -> None:
    """One exchange among the models of all nodes, in this process; afterwards all have the same parameters.

    Raises ``ValueError`` for another number of models than of nodes.
    """
    if len(models) != ownership.num_nodes:
        raise ValueError(f"models: expected one for each of {ownership.num_nodes} nodes, got {len(models)}")
    if len(models) == 1:
        return
    nodes = [dict(model.named_parameters()) for model in models]
    for name, expert in parameter_experts(models[0]).items():
        copies = [node[name] for node in nodes]
        value = _mean(copies) if expert is None else copies[ownership.owner(expert)].clone()
        for copy in copies:
            copy.copy_(value)


@torch.no_grad()
def exchange_all(models: Sequence[nn.Module]) -> None:
    """Every parameter of all models becomes the mean: federated averaging, the control."""
    if len(models) == 1:
        return
    nodes = [dict(model.named_parameters()) for model in models]
    for name in nodes[0]:
        copies = [node[name] for node in nodes]
        value = _mean(copies)
        for copy in copies:
            copy.copy_(value)


@torch.no_grad()
def exchange_with_group(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """:func:`exchange_experts` where every process of ``group`` is a node and has one model; default: all processes."""
    world = dist.get_world_size(group)
    ownership = Ownership.of(model, world)
    parameters = dict(model.named_parameters())
    for name, expert in parameter_experts(model).items():
        parameter = parameters[name]
        if expert is None:
            total = parameter.detach().float().clone()
            dist.all_reduce(total, group=group)
            parameter.copy_(total / world)
        else:
            dist.broadcast(parameter.detach(), group_src=ownership.owner(expert), group=group)


def traffic(model: nn.Module, ownership: Ownership, *, all_experts: bool = False) -> Traffic:
    """Of one exchange: up go the shared weights and the own experts, down come the shared ones and all others' experts.

    ``all_experts``: of federated averaging, where everything goes up and comes down.
    """
    parameters = dict(model.named_parameters())
    shared = experts = 0
    for name, expert in parameter_experts(model).items():
        size = parameters[name].numel() * parameters[name].element_size()
        shared, experts = (shared + size, experts) if expert is None else (shared, experts + size)
    if all_experts:
        return Traffic(shared + experts, shared + experts)
    own = experts // ownership.num_nodes
    return Traffic(shared + own, shared + experts - own)
