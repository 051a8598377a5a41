"""The language model's loss of a mixture of experts: cross-entropy, plus what keeps its routers well behaved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowgauge.train.corpus import Batch
from narrowgauge.train.loss import cross_entropy
from narrowgauge.train.method import Method, Metrics
from narrowgauge.train.moe import Routing, moe_layers


def routings(model: nn.Module) -> list[Routing]:
    """Of every mixture, the routing of the last forward; ``ValueError`` before the first."""
    found = []
    for name, layer in moe_layers(model):
        if layer.routing is None:
            raise ValueError(f"model: {name} has not seen any token yet")
        found.append(layer.routing)
    return found


@dataclass(eq=False)
class RouterLoss(Method):
    """``L = CE + balance · mean_layers(balance loss) + z · mean_layers(z-loss)``; all tokens count, padding too.

    Logs ``balance_loss`` and ``z_loss`` without their factors. Raises ``ValueError`` for factors below 0.
    """

    name = "router_loss"
    summary = "balance and z-loss of a mixture of experts"

    balance: float = 0.01
    z: float = 0.001

    def __post_init__(self) -> None:
        for name in ("balance", "z"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")

    def emphasis(self) -> Tensor | None:
        """Factors [M] on the experts' shares in the balance loss; ``None``: all 1."""
        return None

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy with both losses added."""
        entropy = cross_entropy(model, batch)
        found, emphasis = routings(model), self.emphasis()
        if emphasis is not None:
            emphasis = emphasis.to(entropy.device)
        balance = torch.stack([routing.balance_loss(emphasis) for routing in found]).mean()
        z = torch.stack([routing.z_loss() for routing in found]).mean()
        metrics = {"balance_loss": balance.item(), "z_loss": z.item()}
        return entropy + self.balance * balance + self.z * z, metrics
