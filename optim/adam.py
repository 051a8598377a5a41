"""Adam whose moments are kept in few bits (Kingma & Ba, arXiv 1412.6980), with weight decay as an L2 penalty.

g ← g + weight_decay · p
m ← β₁ m + (1 - β₁) g          v ← β₂ v + (1 - β₂) g²
p ← p - lr / (1 - β₁^t) · m / (sqrt(v) / sqrt(1 - β₂^t) + eps)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.adamw import adam_numbers
from narrowgauge.optim.elementwise import ElementwiseOptimizer
from narrowgauge.optim.options import Options, at_least_zero, check_betas
from narrowgauge.optim.rows import Numbers


class Adam(ElementwiseOptimizer):
    """Adam with compressed states, otherwise torch.optim.Adam's semantics; arguments and errors as in `AdamW`."""

    torch_class = torch.optim.Adam
    unsupported = ("amsgrad", "differentiable", "decoupled_weight_decay")
    has_eco = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have."""
        super().check_group(group)
        check_betas(group)
        at_least_zero(group, "eps", "weight_decay")

    def rule(self, group: Mapping[str, Any]) -> str:
        """`adam`."""
        return "adam"

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        """β₁, β₂ and their corrections."""
        return adam_numbers(group, step, lr)
