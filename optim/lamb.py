"""LAMB: Adam's direction, with a learning rate for each tensor by its size (You et al., arXiv 1904.00962).

    u = Adam's direction + weight_decay · p        r = φ(|p|) / |u|        p ← p - lr · r · u

|·| is the 2-norm (or the 1-norm: the paper's appendix finds no difference), φ(z) = min(max(z, γ_l), γ_u); r = 1 where
a norm is zero, as of a parameter that begins at zero. Bias correction as in the paper's algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.options import Options, at_least_zero, check_betas
from narrowgauge.optim.whole import NORM_FLOOR, WholeTensorOptimizer, check_choice


class LAMB(WholeTensorOptimizer):
    """LAMB with compressed moments.

    lr, betas, eps, weight_decay: of the paper; the decay is a part of u, so the ratio scales it. norm: 2 or 1.
    bounds: (γ_l, γ_u) of φ, (0, inf) for none. adapt: False makes r = 1, as usual for groups of biases and norms.

    Options: those of `Options`. The states are AdamW's. Raises ValueError for options out of range, and for DTensors
    cut into shards, whose norms are not those of whole tensors.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        bounds: tuple[float, float] = (0.0, float("inf")),
        norm: int = 2,
        adapt: bool = True,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bounds": bounds,
            "norm": norm,
            "adapt": adapt,
        }
        super().__init__(params, defaults, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        check_betas(group)
        at_least_zero(group, "eps", "weight_decay")
        check_choice(group, "norm", (1, 2))
        bounds = group["bounds"]
        if len(bounds) != 2 or not 0.0 <= float(bounds[0]) <= float(bounds[1]):
            raise ValueError(f"bounds: got {bounds!r}, accepted are two numbers 0 <= lower <= upper")

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        for p, g in zip(params, gradients, strict=True):
            update = self.adam_direction(p, group, g, float(group["eps"]))
            weight = self.weight(p)
            if group["weight_decay"]:
                update.add_(weight, alpha=float(group["weight_decay"]))
            ratio = trust_ratio(weight, update, group["norm"], group["bounds"]) if group["adapt"] else 1.0
            self.apply_update(p, group, update.mul_(float(group["lr"]) * ratio))


def trust_ratio(weight: Tensor, update: Tensor, order: int, bounds: tuple[float, float]) -> float:
    """r; see the module."""
    above = float(torch.linalg.vector_norm(weight, order))
    below = float(torch.linalg.vector_norm(update, order))
    if above < NORM_FLOOR or below < NORM_FLOOR:
        return 1.0
    return min(max(above, bounds[0]), bounds[1]) / below
