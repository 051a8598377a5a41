"""What optimizers share whose update of one element depends on its whole tensor: norms, products, projections.

    p ← p - lr · weight_decay · p - update           (decoupled decay, Loshchilov & Hutter, arXiv 1711.05101)

and Adam's direction, for those that shape it further:

    m ← m + (1 - β₁)(g - m)     v ← β₂ v + (1 - β₂) g²     u = m / (1 - β₁^t) / (sqrt(v) / sqrt(1 - β₂^t) + eps)
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from narrowgauge.optim.base import CompressedOptimizer
from narrowgauge.optim.local import cut_axis, local_tensor
from narrowgauge.optim.master import with_residual
from narrowgauge.optim.options import name_of

NORM_FLOOR = torch.finfo(torch.float32).tiny
"""A norm below it counts as zero."""


class WholeTensorOptimizer(CompressedOptimizer):
    """Base of optimizers that need whole tensors: DTensors have to be replicated, unless the optimizer gathers them.

    A NaN or an infinity in a gradient reaches, under nonfinite="propagate", every element of its parameter, and no
    other parameter.
    """

    gathers: ClassVar[bool] = False
    """Whether updates of DTensors that are cut along their first axis are made of the gathered whole."""

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        """Also refuses parameters of which this process holds a part, unless the optimizer gathers them."""
        super().check_parameters(group)
        for p in group["params"]:
            if cut_axis(p) is not None and not self.gathers:
                raise ValueError(
                    f"params: {name_of(p, group)} is a DTensor that is cut into shards, and {type(self).__name__} "
                    "needs whole tensors; accepted: plain and replicated ones, or an elementwise optimizer as AdamW"
                )

    def weight(self, p: Tensor) -> Tensor:
        """The float32 weight of a parameter, with its residual if it has one."""
        local, residual = local_tensor(p).tensor, self.state[p].get("residual")
        return local.float() if residual is None else with_residual(local, residual.to(local.device))

    def descend(self, p: Tensor, group: Mapping[str, Any], direction: Tensor, lr: float) -> None:
        """p ← p - group's lr · weight_decay · p - lr · direction (float32, of the local shape)."""
        update = direction * lr
        decay = float(group["lr"]) * float(group["weight_decay"])
        if decay:
            update.add_(self.weight(p), alpha=decay)
        self.apply_update(p, group, update)

    def momentum_of(self, p: Tensor, group: Mapping[str, Any]) -> Tensor:
        """The first moment as it reads back, of an optimizer that has one."""
        m, _ = self.read(p, group)
        if m is None:
            raise ValueError("group: its state has no first moment")
        return m

    def adam_moments(self, p: Tensor, group: Mapping[str, Any], g: Tensor) -> tuple[Tensor, Tensor]:
        """m and v after they have taken up gradient g (float32, of `moment_shape`); rounded only where they are stored.

        The group has `betas`, and both moments.
        """
        beta1, beta2 = (float(beta) for beta in group["betas"])
        m, v = self.read(p, group)
        if m is None or v is None:
            raise ValueError("group: its state lacks a moment of Adam")
        m.lerp_(g, 1.0 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        self.write(p, group, m, v)
        return m, v

    def adam_direction(self, p: Tensor, group: Mapping[str, Any], g: Tensor, eps: float) -> Tensor:
        """u of gradient g; see `adam_moments`."""
        m, v = self.adam_moments(p, group, g)
        return adam_ratio(m, v, self.step_of(p), group["betas"], eps)


def adam_ratio(m: Tensor, v: Tensor, step: int, betas: tuple[float, float], eps: float) -> Tensor:
    """u of moments at a step; v is overwritten."""
    root = v.sqrt_().div_(sqrt(1.0 - float(betas[1]) ** step)).add_(eps)
    return (m / (1.0 - float(betas[0]) ** step)).div_(root)


def norm_ratio(numerator: Tensor, denominator: Tensor) -> float:
    """|numerator| / |denominator| (2-norms); 1 where either is zero."""
    above, below = float(numerator.norm()), float(denominator.norm())
    return above / below if above > NORM_FLOOR and below > NORM_FLOOR else 1.0


def as_matrix(x: Tensor, matrices: str) -> Tensor:
    """A parameter's tensor as the matrices that it is under an option `matrices`: itself for two axes; under "flatten"
    [first axis, the others], under "batch" itself, whose last two axes are matrices."""
    return x.flatten(1) if x.ndim > 2 and matrices == "flatten" else x


def check_matrices(group: Mapping[str, Any], way_out: str) -> None:
    """ValueError, naming the parameter, for one that is no matrix and that the group's `matrices` does not make one."""
    for p in group["params"]:
        if p.ndim == 2 or (p.ndim > 2 and group["matrices"] != "refuse"):
            continue
        more = "" if p.ndim < 2 else ", or choose matrices='flatten' ([out, rest]) or 'batch' (the last two axes)"
        raise ValueError(
            f"params: {name_of(p, group)} has the shape {tuple(p.shape)}, not that of a matrix; {way_out}{more}"
        )


def check_choice(group: Mapping[str, Any], name: str, accepted: tuple[Any, ...]) -> None:
    """ValueError for an option that is none of the accepted ones."""
    if group[name] not in accepted:
        raise ValueError(f"{name}: got {group[name]!r}, accepted are {', '.join(str(choice) for choice in accepted)}")


def check_fraction(group: Mapping[str, Any], *names: str) -> None:
    """ValueError for options that are not in [0, 1)."""
    for name in names:
        if not 0.0 <= float(group[name]) < 1.0:
            raise ValueError(f"{name}: got {group[name]}, accepted are numbers in [0, 1)")


def check_finite_policy(group: Mapping[str, Any], what: str) -> None:
    """ValueError for nonfinite="propagate" of an optimizer whose state mixes all elements of a tensor."""
    if group["nonfinite"] == "propagate":
        raise ValueError(
            f"nonfinite: got 'propagate', and {what} cannot keep a NaN in its place; accepted are 'raise' and 'skip'"
        )


def check_whole_number(group: Mapping[str, Any], *names: str) -> None:
    """ValueError for options that are not whole numbers of at least 1."""
    for name in names:
        value = group[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}, accepted are whole numbers >= 1")
