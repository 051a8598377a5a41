"""Gradients before the step: what is refused, what is not finite, and the norm they are clipped by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from narrowgauge.optim.local import cut_axis, group_of_shards, local_tensor
from narrowgauge.optim.options import name_of

Work = list[tuple[dict[str, Any], list[Tensor]]]
"""Groups, and those of their parameters that have a gradient."""


def gradient_of(p: Tensor) -> Tensor:
    """The local part of a gradient that is there."""
    if p.grad is None:
        raise ValueError("p: this parameter has no gradient")
    return local_tensor(p.grad).tensor


def check_gradients(work: Work) -> None:
    """ValueError for gradients that are not dense, FloatingPointError for values that are not finite where a group says
    nonfinite="raise"."""
    for group, params in work:
        for p in params:
            if p.grad is not None and p.grad.layout is not torch.strided:
                raise ValueError(
                    f"params: {name_of(p, group)} has a {p.grad.layout} gradient; accepted are dense ones, such as "
                    "those of Embedding(sparse=False)"
                )
    for group, params in work:
        if group["nonfinite"] == "raise" and params:
            _raise_if_not_finite(group, params)


def _raise_if_not_finite(group: Mapping[str, Any], params: list[Tensor]) -> None:
    gradients = [gradient_of(p) for p in params]
    largest = iter(torch._foreach_norm([g for g in gradients if g.numel()], torch.inf))
    flags = [0.0 if not g.numel() or bool(torch.isfinite(next(largest))) else 1.0 for g in gradients]
    # Every process that has a shard raises, or none does: they stay at the same step.
    everywhere = _over_shards(params, torch.tensor(flags, device=gradients[0].device))
    broken = [p for p, flag in zip(params, everywhere.tolist(), strict=True) if flag]
    if broken:
        count = int(torch.isfinite(gradient_of(broken[0])).logical_not().sum())
        here = " that this process holds" if cut_axis(broken[0]) is not None else ""
        raise FloatingPointError(
            f"gradient: {count} elements of {name_of(broken[0], group)}{here} are not finite, and of "
            f"{len(broken) - 1} other parameters of its group; nothing was changed (nonfinite='raise')"
        )


def _finite_norm(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient.double(), 0.0, 0.0, 0.0).norm().float()


def global_norm(params: Iterable[Tensor], wait: bool) -> Tensor:
    """The 2-norm of all gradients, float32 [], over all shards of those that are DTensors.

    Elements that are not finite do not count. wait: they are found by looking at the result; else (a captured or
    compiled step cannot look) a gradient that has such an element counts as zero altogether.
    """
    gradients = [p.grad for p in params if p.grad is not None and p.grad.numel()]
    if not gradients:
        return torch.zeros(())
    norms = list(torch._foreach_norm([local_tensor(g).tensor for g in gradients], 2.0, dtype=torch.float32))
    home = norms[0].device
    if wait:
        finite = torch.isfinite(torch.stack([norm.to(home) for norm in norms])).tolist()
        for index, is_finite in enumerate(finite):
            if not is_finite:
                norms[index] = _finite_norm(local_tensor(gradients[index]).tensor)
    together = torch.stack([norm.to(home) for norm in norms])
    if not wait:
        together = torch.where(torch.isfinite(together), together, 0.0)
    return _over_shards(gradients, together.double().square()).sum().sqrt().float()


def _over_shards(tensors: list[Tensor], numbers: Tensor) -> Tensor:
    """The sums of numbers [tensors] over the shards of each tensor; those of tensors that are not cut stay."""
    groups = [group_of_shards(t) for t in tensors]
    for group in dict.fromkeys(group for group in groups if group is not None):
        import torch.distributed as dist

        members = [index for index, other in enumerate(groups) if other is group]
        mesh = tensors[members[0]].device_mesh  # type: ignore[attr-defined]
        share = numbers[members].to(mesh.device_type)  # gradients that are offloaded are not where collectives work
        dist.all_reduce(share, group=group)
        numbers[members] = share.to(numbers.device)
    return numbers
