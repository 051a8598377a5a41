"""Adam-mini: Adam with one second moment for each block of a parameter (Zhang et al., arXiv 2406.16793).

    m ← m + (1 - β₁)(g - m)        v_b ← β₂ v_b + (1 - β₂) · mean of g² over block b
    p ← p - lr · weight_decay · p - lr · m / (1 - β₁^t) / (sqrt(v_b) / sqrt(1 - β₂^t) + eps)

Blocks are equal runs of the flattened parameter, by its name (optim/partition.py) or by the option `blocks`. v is one
float32 number a block, too few to be worth a code; m is coded by `state`, without whitening, which needs an
elementwise v.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.options import Options, at_least_zero, check_betas, given_name
from narrowgauge.optim.partition import Blocks, block_count, check_blocks
from narrowgauge.optim.whole import WholeTensorOptimizer


class AdamMini(WholeTensorOptimizer):
    """Adam-mini with compressed momentum.

    params: `model.named_parameters()`, or groups of named parameters; unnamed ones need `blocks`.
    heads, kv_heads: of the query and the key projections (kv_heads: where keys have fewer, default heads).
    blocks: overrides the partition by name: "tensor", "row" (one block for each index of the first axis), "head" or a
    number of equal blocks, for all parameters of a group; or a dict from names or patterns to such.

    lr, betas, eps, weight_decay: as in torch.optim.AdamW. Options: those of `Options`. State per parameter: exp_avg
    under `state`'s first codec, block_avg_sq [blocks] float32.

    Raises ValueError, saying what to pass, for parameters whose blocks do not follow from their names.
    """

    moment_names: ClassVar[tuple[str, str]] = ("exp_avg", "")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        heads: int | None = None,
        kv_heads: int | None = None,
        blocks: Blocks = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "heads": heads,
            "kv_heads": kv_heads,
            "blocks": blocks,
        }
        super().__init__(params, defaults, **options)

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        check_betas(group)
        at_least_zero(group, "eps", "weight_decay")
        check_blocks(group["blocks"])

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        super().check_parameters(group)
        for p in group["params"]:
            self.blocks_of(p, group)

    def blocks_of(self, p: Tensor, group: Mapping[str, Any]) -> int:
        """How many blocks a parameter has under the options of a group."""
        name = given_name(p, self.group_of(p))  # `group` may be a saved one, with numbers in the place of parameters
        return block_count(name, p.shape, group["blocks"], group["heads"], group["kv_heads"])

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        blocks = self.blocks_of(p, group)
        return {"block_avg_sq": torch.zeros(blocks, device=self.state_device(p, group))}

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        beta1, beta2 = (float(beta) for beta in group["betas"])
        for p, g in zip(params, gradients, strict=True):
            m = self.momentum_of(p, group).lerp_(g, 1.0 - beta1)
            v = self.state[p]["block_avg_sq"]
            rows = g.reshape(v.numel(), -1)
            if rows.numel():
                v.lerp_(rows.square().mean(-1).to(v.device), 1.0 - beta2)
            self.write(p, group, m, None)
            step = self.step_of(p)
            root = v.to(g.device).sqrt().div_(sqrt(1.0 - beta2**step)).add_(float(group["eps"]))
            direction = (m.reshape(rows.shape) / root[:, None]).view(g.shape)
            self.descend(p, group, direction, float(group["lr"]) / (1.0 - beta1**step))
