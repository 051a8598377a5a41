"""Lion whose momentum is kept in few bits (Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv
2302.06675, program 1).

    p ← p - lr · weight_decay · p
    p ← p - lr · sign(β₁ m + (1 - β₁) g)
    m ← β₂ m + (1 - β₂) g
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.elementwise import ElementwiseOptimizer
from narrowgauge.optim.options import Options, at_least_zero, check_betas
from narrowgauge.optim.rows import Numbers


class Lion(ElementwiseOptimizer):
    """Lion with a compressed momentum `exp_avg`; options and errors as in `AdamW`.

    The step takes only a sign from m, so every element moves by lr: use about a tenth of AdamW's lr, and ten times its
    weight_decay. `state` names the codec of m; of a pair, its first. Codecs that store m relative to v store m itself.
    """

    moment_names = ("exp_avg", "")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have."""
        super().check_group(group)
        check_betas(group)
        at_least_zero(group, "weight_decay")

    def rule(self, group: Mapping[str, Any]) -> str:
        """`lion`."""
        return "lion"

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        """β₁ and β₂."""
        beta1, beta2 = (float(beta) for beta in group["betas"])
        return Numbers(lr, group["weight_decay"], beta1, beta2)
