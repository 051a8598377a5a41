"""SGD whose momentum is kept in few bits.

    g ← g + weight_decay · p
    m ← momentum · m + (1 - dampening) · g          (the first step: m ← g)
    p ← p - lr · m                                  (nesterov: p ← p - lr · (g + momentum · m))

As in torch.optim.SGD; without momentum p ← p - lr · g, and there is no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.elementwise import ElementwiseOptimizer
from narrowgauge.optim.options import ECO, Options, at_least_zero
from narrowgauge.optim.rows import Numbers


class SGD(ElementwiseOptimizer):
    """SGD with a compressed `momentum_buffer`, otherwise torch.optim.SGD's semantics; options and errors as in `AdamW`.

    Beside torch's state there is `step`, from which stochastic roundings draw. A state of torch.optim.SGD counts as
    that of step 1.
    """

    moment_names = ("momentum_buffer", "")
    torch_class = torch.optim.SGD
    has_eco = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        own = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**own, "nesterov": nesterov}, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have."""
        super().check_group(group)
        at_least_zero(group, "momentum", "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("nesterov: needs momentum > 0 and dampening = 0")
        if group["master"].startswith(ECO) and (group["nesterov"] or not group["momentum"]):
            raise ValueError("master: ECO gives errors to the momentum; it needs momentum > 0 and nesterov=False")

    def rule(self, group: Mapping[str, Any]) -> str:
        """`sgd` or `sgd_nesterov`."""
        return "sgd_nesterov" if group["nesterov"] else "sgd"

    def moment_keys(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """No momentum, no state."""
        return self.moment_names if group["momentum"] else ("", "")

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        """momentum and dampening, which the first step does not have."""
        dampening = float(group["dampening"])
        b = torch.where(step > 1, dampening, 0.0) if isinstance(step, Tensor) else dampening * (step > 1)
        return Numbers(lr, group["weight_decay"], float(group["momentum"]), b)

    def moments_to_torch(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """torch's SGD has no `step`, and None for a momentum that there is not."""
        return {"momentum_buffer": self.read(p, group)[0]}
