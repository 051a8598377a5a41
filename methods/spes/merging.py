"""The warm-up in which similar experts move towards each other.

For each mixture, with ``s`` the cosine similarity of the experts' first matrices, flattened, and ``NN(e)`` the K others
that are most similar to ``e``, for all experts at once and all of their matrices::

    θ_e ← θ_e + α(t) (mean_{j in NN(e)} θ_j - θ_e),    α(t) = α₀ (1 - t / T)

Being a neighbour is not mutual, so the mean of all experts is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.train.moe import expert_tensors, moe_layers, set_expert_tensors

FIRST_MATRIX = "gate_proj.weight"


@dataclass(frozen=True, slots=True)
class Merging:
    """α₀ = ``rate`` in [0, 1], every ``every`` steps before step T = ``until``, with K = ``neighbours``.

    Raises ``ValueError`` for other values.
    """

    rate: float = 0.01
    until: int = 10_000
    every: int = 500
    neighbours: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate: expected a number in [0, 1], got {self.rate!r}")
        for name in ("until", "every", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def alpha(self, step: int) -> float:
        """α after ``step`` steps; 0 from T on."""
        return self.rate * max(0.0, 1 - step / self.until)

    def is_due(self, step: int) -> bool:
        """Whether experts merge after ``step`` steps."""
        return 0 < step < self.until and step % self.every == 0


def similarity(matrices: Tensor) -> Tensor:
    """Cosines [M, M] of ``matrices`` [M, …], flattened, in float32."""
    unit = F.normalize(matrices.flatten(1).float(), dim=1)
    return unit @ unit.T


def nearest(cosines: Tensor, count: int) -> Tensor:
    """For each row of ``cosines`` [M, M] the ``count`` largest, itself excluded, [M, count] int64.

    Raises ``ValueError`` where there are not so many others.
    """
    if not 1 <= count < len(cosines):
        raise ValueError(f"neighbours: expected 1 … {len(cosines) - 1} for {len(cosines)} experts, got {count}")
    others = cosines.clone().fill_diagonal_(-torch.inf)
    return others.topk(count, dim=1).indices


def merged(experts: Tensor, neighbours: Tensor, alpha: float) -> Tensor:
    """``experts`` [M, …] moved by ``alpha`` towards the mean of their ``neighbours`` [M, K], all at once."""
    wide = experts.float()
    target = wide[neighbours].mean(1)
    return (wide + alpha * (target - wide)).to(experts.dtype)


@torch.no_grad()
def merge_experts(model: nn.Module, alpha: float, neighbours: int = 4) -> None:
    """One merging in every mixture of ``model``, in place; ``alpha`` 0 changes nothing."""
    if alpha == 0:
        return
    for _, layer in moe_layers(model):
        tensors = expert_tensors(layer)
        near = nearest(similarity(tensors[FIRST_MATRIX]), neighbours)
        set_expert_tensors(layer, {name: merged(tensor, near, alpha) for name, tensor in tensors.items()})
