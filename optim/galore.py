"""GaLore: Adam in a low-rank projection of the gradient, with projection and moments in few bits.

    R = project(G, P)        u = Adam's direction of R        p ← p - lr · weight_decay · p - lr · scale · back(u, P)

with P [rank, shorter side], renewed from the gradient every `update_gap` steps (Zhao et al., arXiv 2403.03507;
optim/projection.py). P is kept under a scheme, INT4 in groups of 256 by default, and the interval doubles while P stays
where it is (Q-GaLore, Zhang et al., arXiv 2407.08296). Moments have the shape of R and are coded by `state`:

    bytes for an m × n matrix, m <= n, in 8 bits:    rank · (about 2 n + m / 2)        AdamW in float32: 8 m n
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.formats import Scheme
from narrowgauge.optim.local import shape_of
from narrowgauge.optim.mixed import MixedOptimizer
from narrowgauge.optim.options import Options, at_least_zero, check_betas, name_of
from narrowgauge.optim.projection import (
    NOT_SEEN,
    SIMILARITIES,
    leading_similarity,
    leading_vectors,
    project,
    project_back,
    projected_shape,
    renewed_gap,
)
from narrowgauge.optim.stored_matrix import load_matrix, matrix_scheme, store_matrix
from narrowgauge.optim.whole import check_finite_policy, check_whole_number


class GaLore(MixedOptimizer):
    """GaLore with compressed moments and projections, and AdamW for groups without a rank.

    params: matrices whose shorter side is above `rank`, or groups with a `rank` of their own, None for AdamW, as
    `galore_groups(model, rank)` makes them.

    rank, update_gap, scale: as in the paper (there r, T and α). adaptive: doubles a parameter's interval where the
    cosine similarity of leading vectors, averaged over five renewals, is at least `threshold`. projection: how P is
    kept, "fp32", "bf16" or a scheme along its rows. lr, betas, eps, weight_decay: as in torch.optim.AdamW.

    Options: those of `Options`; nonfinite is "raise" by default, or "skip", because a projection cannot keep a NaN in
    its place. State per parameter: exp_avg and exp_avg_sq of R's shape; projection (packed) and its scales; gap and
    renew_at [] int64; similarities [5] float32.

    Raises ValueError, naming the parameter and the way out, for parameters that a rank cannot be given.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        rank: int | None = 128,
        update_gap: int = 200,
        scale: float = 0.25,
        projection: str | Scheme = "int4/1x256",
        adaptive: bool = True,
        threshold: float = 0.4,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "update_gap": update_gap,
            "scale": scale,
            "projection": projection,
            "adaptive": adaptive,
            "threshold": threshold,
        }
        options.setdefault("nonfinite", "raise")
        super().__init__(params, defaults, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters; options that it does not name are those of the constructor."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["projection"] = matrix_scheme(group["projection"], "projection")  # as text, for the state_dict

    def is_adamw(self, group: Mapping[str, Any]) -> bool:
        return group["rank"] is None

    def rule_name(self, group: Mapping[str, Any]) -> str:
        return "adamw" if group["rank"] is None else f"galore, rank {group['rank']}"

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        check_betas(group)
        at_least_zero(group, "eps", "weight_decay", "scale")
        matrix_scheme(group["projection"], "projection")
        if group["rank"] is None:
            return
        check_whole_number(group, "rank", "update_gap")
        check_finite_policy(group, "a projection")
        if not 0.0 <= float(group["threshold"]) <= 1.0:
            raise ValueError(f"threshold: got {group['threshold']}, accepted are numbers in [0, 1]")

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        super().check_parameters(group)
        rank = group["rank"]
        for p in group["params"]:
            if rank is not None and not (p.ndim == 2 and min(p.shape) > rank):
                raise ValueError(
                    f"params: {name_of(p, group)} has the shape {tuple(p.shape)}; rank {rank} takes matrices whose "
                    "shorter side is above it; lower it, or give it a group with rank=None (galore_groups(model, rank))"
                )

    def moment_shape(self, p: Tensor, group: Mapping[str, Any]) -> torch.Size:
        shape = super().moment_shape(p, group)
        return shape if group["rank"] is None else projected_shape(shape, group["rank"])

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        if group["rank"] is None:
            return {}
        zeros = torch.zeros(group["rank"], min(shape_of(p)), device=self.state_device(p, group))
        return {
            **store_matrix(zeros, group["projection"], "projection"),
            "gap": torch.tensor(group["update_gap"]),
            "renew_at": torch.tensor(1),
            "similarities": torch.full((SIMILARITIES,), NOT_SEEN),
        }

    def projection_of(self, p: Tensor, group: Mapping[str, Any]) -> Tensor:
        """P as it reads back, float32 [rank, shorter side], on the parameter's device."""
        return load_matrix(self.state[p], group["projection"], "projection", min(shape_of(p))).to(p.device)

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        lr, eps = float(group["lr"]), float(group["eps"])
        for p, g in zip(params, gradients, strict=True):
            if self.step_of(p) >= int(self.state[p]["renew_at"]):
                self._renew(p, group, g)
            vectors = self.projection_of(p, group)
            direction = self.adam_direction(p, group, project(g, vectors), eps)
            self.descend(p, group, project_back(direction, vectors, g.shape), lr * float(group["scale"]))

    def _renew(self, p: Tensor, group: Mapping[str, Any], g: Tensor) -> None:
        state, step = self.state[p], self.step_of(p)
        previous = self.projection_of(p, group) if step > 1 else None
        vectors = leading_vectors(g, group["rank"], previous)
        if previous is not None:
            state["similarities"].copy_(state["similarities"].roll(-1))
            state["similarities"][-1] = leading_similarity(vectors, previous)
            if group["adaptive"]:
                state["gap"].fill_(renewed_gap(int(state["gap"]), state["similarities"], float(group["threshold"])))
        for key, tensor in store_matrix(vectors, group["projection"], "projection").items():
            state[key].copy_(tensor)
        state["renew_at"].fill_(step + int(state["gap"]))
