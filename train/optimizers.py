"""Between the trainer and any ``torch.optim.Optimizer``: its parameters, its learning rates."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from narrowgauge.train.method import ParameterGroup

OptimizerFactory = Callable[[list[ParameterGroup]], torch.optim.Optimizer]


def default_groups(model: nn.Module) -> list[ParameterGroup]:
    """The trainable parameters: matrices with the optimizer's weight decay, vectors (norms) without."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[ParameterGroup] = [
        {"params": [(name, p) for name, p in named if p.ndim >= 2]},
        {"params": [(name, p) for name, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def check_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """``ValueError`` unless the optimizer steps exactly the model's trainable parameters."""
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for key, name in trainable.items() if key not in stepped]
    if missing:
        raise ValueError(
            f"optimizer: {len(missing)} trainable parameters are not in it, first {missing[0]!r}; freeze them"
            " with requires_grad_(False), or give a function groups -> optimizer (called after any surgery)"
        )
    foreign = len(stepped - set(trainable))
    if foreign:
        raise ValueError(
            f"optimizer: {foreign} of its parameters are not (or no longer) trainable ones of the model;"
            " give a function groups -> optimizer (called after any surgery)"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float | None, factor: float) -> float:
    """Give every group ``(rate or its first lr) · factor · its lr_scale``; returns the first group's."""
    for group in optimizer.param_groups:
        base = float(group.setdefault("initial_lr", float(group["lr"]))) if rate is None else rate
        value = base * factor * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], Tensor):  # a capturable optimizer reads the tensor
            group["lr"].fill_(value)
        else:
            group["lr"] = value
    return float(optimizer.param_groups[0]["lr"])
