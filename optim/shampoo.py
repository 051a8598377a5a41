"""Shampoo with its preconditioners in 4 bits (Gupta et al., arXiv 1802.09568; in 4 bits Wang et al., arXiv 2405.18144).

Of each block [m, n] of a matrix, neither side above `max_preconditioner_dim`:

    every `update_gap` steps    L ← β L + (1 - β) G Gᵀ        R ← β R + (1 - β) Gᵀ G
    M ← M + (1 - β₁)(G - M)     D = L^(-1/4) M R^(-1/4)        p ← p - lr · weight_decay · p - lr · D · |u| / |D|

|u| / |D| is grafting: the length of each block's step is that of another optimizer's update u (Agarwal et al., arXiv
2002.11803): "adam" (Adam's direction), "sgd" (M), "none" (D's own). Vectors and scalars take u itself.

The moments M and v are coded by `state`. L and R are not moments, and no moment codec fits them: those keep what is
large in a group, and a root is made of what is small. They have a scheme of their own, `preconditioner`
(optim/preconditioner.py): by default statistics in int8 and roots in NF4, groups of 64, 1.6 n² bytes a side. "nf4/1x64"
has both in 4 bits, 1.1 n² (a little more exact here than the paper's signed squares, `PAPER_SCHEME`, of the same size),
but what each renewal rounds off adds up: after 40 renewals roots were 37 % off in a synthetic test, by default 4 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.formats import Scheme
from narrowgauge.optim.local import shape_of
from narrowgauge.optim.options import Options, at_least_zero, check_betas, name_of
from narrowgauge.optim.preconditioner import empty_preconditioner, load_root, preconditioner_schemes, renewed
from narrowgauge.optim.whole import (
    WholeTensorOptimizer,
    adam_ratio,
    check_choice,
    check_finite_policy,
    check_fraction,
    check_whole_number,
    norm_ratio,
)

GRAFTING = ("adam", "sgd", "none")


class Block(NamedTuple):
    """A rectangle of a matrix, with the name of its preconditioners."""

    name: str
    rows: slice
    columns: slice

    def of(self, x: Tensor) -> Tensor:
        """The rectangle of a matrix, a view."""
        return x[self.rows, self.columns]


def blocks_of(shape: torch.Size, largest: int) -> list[Block]:
    """The blocks of a parameter: none of a vector; of three and more axes [first axis, the others]."""
    if len(shape) < 2:
        return []
    rows, columns = shape[0], shape[1:].numel()
    corners = [(i, j) for i in range(0, rows, largest) for j in range(0, columns, largest)]
    return [
        Block(f"block{k}", slice(i, min(i + largest, rows)), slice(j, min(j + largest, columns)))
        for k, (i, j) in enumerate(corners)
    ]


class Shampoo(WholeTensorOptimizer):
    """Shampoo with compressed moments and preconditioners.

    params: any; those of three and more axes are matrices [first axis, the others].
    betas: (β₁, β₂) of M and v; preconditioner_decay: β; eps: of grafting's Adam; ridge: the part of the largest
    eigenvalue that is added to all before a root. update_gap: steps between decompositions. preconditioner: "fp32",
    "bf16" or a scheme along the rows, or a pair of such, for statistics and for roots. max_error: the largest relative
    error of a root that reads back, of one renewal's rounding alone, not of what statistics lose over many.

    Options: those of `Options`; nonfinite is "raise" by default, or "skip". State per parameter: exp_avg, with
    grafting="adam" exp_avg_sq; of each block the tensors of both sides; root_errors [2 · blocks] float32.

    Raises ValueError for options out of range, and in `step` FloatingPointError, before the parameter or its moments
    change, where a root reads back with more than `max_error`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        preconditioner_decay: float = 0.95,
        ridge: float = 1e-6,
        update_gap: int = 20,
        max_preconditioner_dim: int = 1024,
        grafting: str = "adam",
        preconditioner: str | Scheme | tuple[str | Scheme, str | Scheme] = ("int8/1x64", "nf4/1x64"),
        max_error: float = 0.5,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "preconditioner_decay": preconditioner_decay,
            "ridge": ridge,
            "update_gap": update_gap,
            "max_preconditioner_dim": max_preconditioner_dim,
            "grafting": grafting,
            "preconditioner": preconditioner,
            "max_error": max_error,
        }
        options.setdefault("nonfinite", "raise")
        super().__init__(params, defaults, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters; options that it does not name are those of the constructor."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["preconditioner"] = preconditioner_schemes(group["preconditioner"])  # as text, for the state_dict

    def moment_keys(self, group: Mapping[str, Any]) -> tuple[str, str]:
        return ("exp_avg", "exp_avg_sq" if group["grafting"] == "adam" else "")

    def check_group(self, group: Mapping[str, Any]) -> None:
        check_choice(group, "grafting", GRAFTING)
        super().check_group(group)
        check_betas(group)
        check_fraction(group, "preconditioner_decay")
        at_least_zero(group, "eps", "weight_decay")
        check_whole_number(group, "update_gap", "max_preconditioner_dim")
        preconditioner_schemes(group["preconditioner"])
        check_finite_policy(group, "a preconditioner")
        for name in ("ridge", "max_error"):
            if not float(group[name]) > 0.0:
                raise ValueError(f"{name}: got {group[name]}, accepted are numbers > 0")

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        home, schemes = self.state_device(p, group), preconditioner_schemes(group["preconditioner"])
        blocks = blocks_of(shape_of(p), group["max_preconditioner_dim"])
        tensors = {"root_errors": torch.zeros(2 * len(blocks))} if blocks else {}
        for block in blocks:
            rows, columns = block.rows.stop - block.rows.start, block.columns.stop - block.columns.start
            tensors.update(empty_preconditioner(rows, schemes, f"{block.name}_left", home))
            tensors.update(empty_preconditioner(columns, schemes, f"{block.name}_right", home))
        return tensors

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        for p, g in zip(params, gradients, strict=True):
            blocks = blocks_of(g.shape, group["max_preconditioner_dim"])
            if (self.step_of(p) - 1) % group["update_gap"] == 0:
                self._renew(p, group, g, blocks)
            m, graft = self._graft(p, group, g)
            direction = self._preconditioned(p, group, m, graft, blocks) if blocks else graft
            self.descend(p, group, direction.reshape(g.shape), float(group["lr"]))

    def _graft(self, p: Tensor, group: Mapping[str, Any], g: Tensor) -> tuple[Tensor, Tensor]:
        """(M, u), after the moments have taken up g and been stored."""
        if group["grafting"] == "adam":
            m, v = self.adam_moments(p, group, g)
            return m, adam_ratio(m, v, self.step_of(p), group["betas"], float(group["eps"]))
        m = self.momentum_of(p, group).lerp_(g, 1.0 - float(group["betas"][0]))
        self.write(p, group, m, None)
        return m, m

    def _preconditioned(
        self, p: Tensor, group: Mapping[str, Any], m: Tensor, graft: Tensor, blocks: list[Block]
    ) -> Tensor:
        state, (_, scheme) = self.state[p], preconditioner_schemes(group["preconditioner"])
        direction, m, graft = torch.empty_like(m.flatten(1)), m.flatten(1), graft.flatten(1)
        for block in blocks:
            left, right = (load_root(state, scheme, f"{block.name}_{side}").to(m.device) for side in ("left", "right"))
            d = left @ block.of(m) @ right
            ratio = 1.0 if group["grafting"] == "none" else norm_ratio(block.of(graft), d)
            block.of(direction).copy_(d.mul_(ratio))
        return direction

    def _renew(self, p: Tensor, group: Mapping[str, Any], g: Tensor, blocks: list[Block]) -> None:
        """New statistics and roots of all blocks, or FloatingPointError and none."""
        state, fresh, errors = self.state[p], {}, []
        schemes = preconditioner_schemes(group["preconditioner"])
        for block in blocks:
            part = block.of(g.flatten(1)).to(self.state_device(p, group))
            for side, gram in (("left", part @ part.T), ("right", part.T @ part)):
                name = f"{block.name}_{side}"
                decay, ridge = float(group["preconditioner_decay"]), float(group["ridge"])
                tensors, error = renewed(state, schemes, name, gram, decay, ridge)
                if error > group["max_error"]:
                    raise FloatingPointError(
                        f"preconditioner: the root {name} of {name_of(p, group)} reads back from "
                        f"{schemes[1]} with a relative error of {error:.3g}, above max_error="
                        f"{group['max_error']}; choose a finer scheme such as int8/1x64, a larger ridge, or max_error"
                    )
                fresh.update(tensors)
                errors.append(error)
        for key, tensor in fresh.items():
            state[key].copy_(tensor)
        if blocks:
            state["root_errors"].copy_(torch.tensor(errors))
