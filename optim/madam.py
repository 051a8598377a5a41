"""Madam: a multiplicative step, for weights whose logarithms are stored (Bernstein et al., arXiv 2006.14560).

    v ← β v + (1 - β) g²          ĝ = clamp(g / √(v / (1 - β^t)), -bound, bound)
    |w| ← |w| · 2^(-lr · sign(w) · ĝ)        at most `limit` times the root mean square of the first weights

In base 2, as in LNS-Madam (arXiv 2106.13914), where log2 |w| is on a grid and the step is an addition to it. Signs
never change and zeros never move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.options import Options, at_least_zero, name_of
from narrowgauge.optim.whole import WholeTensorOptimizer, check_fraction


class Madam(WholeTensorOptimizer):
    """Madam with a compressed `exp_avg_sq`; `state` names the codec of v (of a pair, its second).

    lr: octaves per step of a gradient as large as usual; the papers' 2^-7. beta: of v. bound: of ĝ. limit: largest
    |w|, in units of the root mean square that the parameter has at its first step. Options: those of `Options`.

    Raises ValueError for parameters of zeros alone, which a multiplicative step never moves.
    """

    moment_names: ClassVar[tuple[str, str]] = ("", "exp_avg_sq")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2.0**-7,
        beta: float = 0.999,
        bound: float = 10.0,
        limit: float = 3.0,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "beta": beta, "bound": bound, "limit": limit, "weight_decay": 0.0}
        super().__init__(params, defaults, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        check_fraction(group, "beta")
        at_least_zero(group, "bound", "limit")

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        super().check_parameters(group)
        for p in group["params"]:
            if p.numel() and not p.detach().any():
                raise ValueError(
                    f"params: {name_of(p, group)} holds zeros alone, which multiplicative steps never move; give it "
                    "other values or another optimizer"
                )

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """The largest |w|."""
        return {"largest": self.weight(p).square().mean().sqrt() * float(group["limit"])}

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        beta, bound, lr = float(group["beta"]), float(group["bound"]), float(group["lr"])
        for p, g in zip(params, gradients, strict=True):
            _, v = self.read(p, group)
            if v is None:
                raise ValueError("group: its state lacks the second moment")
            v.mul_(beta).addcmul_(g, g, value=1.0 - beta)
            self.write(p, group, None, v)
            root = (v / (1.0 - beta ** self.step_of(p))).sqrt_()
            usual = torch.where(root > 0, g / root, 0.0).clamp_(-bound, bound)
            w, largest = self.weight(p), self.state[p]["largest"]
            new = torch.exp2(-lr * w.sign() * usual).mul_(w)
            self.apply_update(p, group, w - torch.clamp(new, -largest, largest))
