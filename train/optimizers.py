"""Between the trainer and any ``torch.optim.Optimizer``: its parameters, its learning rates."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from narrowgauge.train.compose import MethodStack
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


def one_group_each(groups: list[ParameterGroup]) -> list[ParameterGroup]:
    """The same groups, cut into one for each parameter."""
    return [{**group, "params": [named]} for group in groups for named in group["params"]]


def build_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerFactory, model: nn.Module, methods: MethodStack
) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable parameters, in the groups that the methods want.

    Raises ``ValueError`` for a ready optimizer where a method needs other groups, and for one of other parameters.
    """
    regrouping = [*methods.overriding("parameter_groups"), *methods.overriding("lr_scales")]
    if not isinstance(optimizer, torch.optim.Optimizer):
        groups = methods.parameter_groups(model, default_groups(model))
        optimizer = optimizer(one_group_each(groups) if methods.overriding("lr_scales") else groups)
    elif regrouping:
        raise ValueError(
            f"optimizer: {regrouping[0]!r} changes the parameter groups; expected a function"
            f" groups -> optimizer, got a ready {type(optimizer).__name__}"
        )
    check_parameters(model, optimizer)
    return optimizer


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


def set_learning_rate(
    optimizer: torch.optim.Optimizer,
    rate: float | None,
    factor: float,
    scales: Mapping[str, float] | None = None,
) -> float:
    """Give every group ``(rate or its first lr) · factor · its lr_scale``; returns that of the first group.

    ``scales``, by the name of a group's only parameter, multiply on top. Raises ``ValueError`` for a name that no group
    has.
    """
    scales, unknown, first = scales or {}, set(scales or ()), 0.0
    for index, group in enumerate(optimizer.param_groups):
        base = float(group.setdefault("initial_lr", float(group["lr"]))) if rate is None else rate
        value = base * factor * group.get("lr_scale", 1.0)
        first = value if index == 0 else first
        if scales:
            name = next(iter(group.get("param_names", ())), "")
            value *= scales.get(name, 1.0)
            unknown.discard(name)
        if isinstance(group["lr"], Tensor):  # a capturable optimizer reads the tensor
            group["lr"].fill_(value)
        else:
            group["lr"] = value
    if unknown:
        raise ValueError(
            f"lr_scales: {min(unknown)!r} is not a parameter of the optimizer; its groups have to keep the names that"
            " the trainer gives them"
        )
    return first
