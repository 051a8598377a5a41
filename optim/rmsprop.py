"""RMSprop whose states are kept in few bits (Tieleman & Hinton, Lecture 6.5, 2012), as in torch.optim.RMSprop.

g ← g + weight_decay · p          v ← alpha · v + (1 - alpha) g²
p ← p - lr · g / (sqrt(v) + eps)
with momentum:    m ← momentum · m + g / (sqrt(v) + eps);    p ← p - lr · m
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.elementwise import ElementwiseOptimizer
from narrowgauge.optim.options import Options, at_least_zero
from narrowgauge.optim.rows import Numbers


class RMSprop(ElementwiseOptimizer):
    """RMSprop with compressed `square_avg` and, with momentum, `momentum_buffer`; options and errors as in `AdamW`.

    The centered form, which keeps a third average, is refused. Without momentum `state` names the codec of v (of a
    pair, its second).
    """

    moment_names = ("momentum_buffer", "square_avg")
    torch_class = torch.optim.RMSprop
    unsupported = ("centered", "differentiable")
    related = False  # m sums g / √v, which is of the size of 1

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        own = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, own, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have."""
        super().check_group(group)
        at_least_zero(group, "eps", "weight_decay", "momentum")
        if not 0.0 <= float(group["alpha"]) < 1.0:
            raise ValueError(f"alpha: got {group['alpha']}, accepted are numbers in [0, 1)")

    def rule(self, group: Mapping[str, Any]) -> str:
        """`rmsprop` or `rmsprop_momentum`."""
        return "rmsprop_momentum" if group["momentum"] else "rmsprop"

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        """momentum and alpha."""
        return Numbers(lr, group["weight_decay"], float(group["momentum"]), float(group["alpha"]), group["eps"])
