"""Muon: momentum, orthogonalised, with the momentum kept in few bits.

    B ← B + (1 - μ)(G - B)          U = G + μ (B - G)  (nesterov)  or  B
    W ← W - lr · weight_decay · W - lr · s(m, n) · orthogonalize(U)

of hidden matrices [m, n] (Keller Jordan, 2024, kellerjordan.github.io/posts/muon; optim/newton_schulz.py), with

| adjust_lr_fn      | s(m, n)              |                                                                         |
|-------------------|----------------------|-------------------------------------------------------------------------|
| original, None    | sqrt(max(1, m / n))  |                                                                         |
| match_rms_adamw   | 0.2 sqrt(max(m, n))  | updates as large as AdamW's, whose lr then serves (arXiv 2502.16982)    |

Orthogonalisation forgets the scale of what it gets, so 8 bits of a linear code with one scale for 2048 elements already
do (arXiv 2509.23106); all codecs of kernels/moments.py serve, without the whitening that needs a second moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.gather import gathered, own_part
from narrowgauge.optim.mixed import MixedOptimizer
from narrowgauge.optim.newton_schulz import DTYPES, JORDAN, check_newton_schulz, orthogonalize
from narrowgauge.optim.options import Options, at_least_zero, check_betas
from narrowgauge.optim.rows import Numbers
from narrowgauge.optim.whole import as_matrix, check_choice, check_fraction, check_matrices

ALGORITHMS = ("muon", "adamw")
ADJUSTMENTS = (None, "original", "match_rms_adamw")
MATRICES = ("refuse", "flatten", "batch")


class Muon(MixedOptimizer):
    """Muon with compressed momentum, otherwise torch.optim.Muon's semantics, and AdamW for what is no hidden matrix.

    params: hidden matrices, or groups with a flag `algorithm`: "muon" (the default) or "adamw", as `muon_groups(model)`
    makes them. adamw_params: parameters or groups for AdamW, a short form of such groups; adamw_lr: their learning
    rate (default: lr). betas, adamw_eps: of those groups.

    lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: as in torch.optim.Muon.
    ns_dtype: "bfloat16" (torch's, the default) or "float32", the arithmetic of the products.
    matrices: what parameters of three and more axes are: "refuse", "flatten" (convolutions: [out, the rest]), or
    "batch" (experts: the last two axes).

    DTensors cut along their first axis, as FSDP2 cuts them, keep their momentum in shards; U is gathered, one parameter
    at a time, and every process orthogonalises it.

    Options: those of `Options`. State per parameter: momentum_buffer under `state`'s first codec; exp_avg and
    exp_avg_sq in AdamW groups. With state="fp32" steps are torch's up to a few units in the last place.

    Raises ValueError, naming the parameter and the way out, for parameters of the group "muon" that are not matrices.
    """

    torch_class: ClassVar[type[Optimizer] | None] = torch.optim.Muon
    gathers: ClassVar[bool] = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = JORDAN,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        adamw_params: ParamsT | None = None,
        adamw_lr: float | Tensor | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        algorithm: str = "muon",
        matrices: str = "refuse",
        ns_dtype: str = "bfloat16",
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "betas": betas,
            "adamw_eps": adamw_eps,
            "algorithm": algorithm,
            "matrices": matrices,
            "ns_dtype": ns_dtype,
        }
        super().__init__(params, defaults, **options)
        if adamw_params is not None:
            self._add_adamw(adamw_params, lr if adamw_lr is None else adamw_lr)

    def _add_adamw(self, params: ParamsT, lr: float | Tensor) -> None:
        members: list[Any] = list(params)
        groups = members if members and isinstance(members[0], dict) else [{"params": members}]
        for group in groups:
            self.add_param_group({"lr": lr, **group, "algorithm": "adamw"})

    def is_adamw(self, group: Mapping[str, Any]) -> bool:
        return bool(group["algorithm"] == "adamw")

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        return super().numbers({**group, "eps": group["adamw_eps"]}, step, lr)

    def moment_keys(self, group: Mapping[str, Any]) -> tuple[str, str]:
        return super().moment_keys(group) if self.is_adamw(group) else ("momentum_buffer", "")

    def rule_name(self, group: Mapping[str, Any]) -> str:
        return str(group["algorithm"])

    def check_group(self, group: Mapping[str, Any]) -> None:
        check_choice(group, "algorithm", ALGORITHMS)
        super().check_group(group)
        check_choice(group, "adjust_lr_fn", ADJUSTMENTS)
        check_choice(group, "matrices", MATRICES)
        check_choice(group, "ns_dtype", tuple(DTYPES))
        check_fraction(group, "momentum")
        check_betas(group)
        at_least_zero(group, "weight_decay", "adamw_eps")
        check_newton_schulz(group["ns_steps"], group["ns_coefficients"], group["eps"])

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        super().check_parameters(group)
        if group["algorithm"] == "muon":
            check_matrices(group, "give it a group with algorithm='adamw' (muon_groups(model), or adamw_params=)")

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        dtype, eps = DTYPES[group["ns_dtype"]], float(group["eps"])
        for p, g in zip(params, gradients, strict=True):
            update = as_matrix(gathered(self._momentum(p, group, g), p), group["matrices"])
            ratio = adjustment(update.shape[-2], update.shape[-1], group["adjust_lr_fn"])
            direction = orthogonalize(update, group["ns_steps"], group["ns_coefficients"], dtype, eps)
            mine = own_part(direction.float().reshape(p.shape), p)
            self.descend(p, group, mine, float(group["lr"]) * ratio)

    def _momentum(self, p: Tensor, group: Mapping[str, Any], g: Tensor) -> Tensor:
        """What is orthogonalised, the momentum being stored."""
        buffer = self.momentum_of(p, group)
        buffer.lerp_(g, 1.0 - group["momentum"])
        self.write(p, group, buffer, None)
        return g.lerp_(buffer, group["momentum"]) if group["nesterov"] else buffer


def adjustment(rows: int, columns: int, adjust_lr_fn: str | None) -> float:
    """s(m, n); see the module."""
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * sqrt(max(rows, columns))
    return sqrt(max(1.0, rows / columns)) if columns else 1.0
