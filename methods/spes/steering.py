"""The balance loss of a node, which steers its tokens to the experts that it can train.

In the balance loss, the shares of the node's own experts count with a factor that rises linearly from 0.7 to 1 during
the first fifth of the training. They look less used than they are, so that more tokens are sent there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from narrowgauge.methods.spes.ownership import Ownership
from narrowgauge.train.moe_loss import RouterLoss


@dataclass(eq=False)
class SteeredRouterLoss(RouterLoss):
    """:class:`RouterLoss` of node ``node`` of ``ownership``; the factor rises from ``start`` to 1 over ``ramp`` steps.

    A node that owns all experts has nowhere to steer to: its loss is the ordinary one. ``ValueError`` for a ``start``
    outside (0, 1] or a ``ramp`` below 0.
    """

    ownership: Ownership = field(kw_only=True)
    node: int = 0
    start: float = 0.7
    ramp: int = 0
    _step: int = 0

    def __post_init__(self) -> None:
        RouterLoss.__post_init__(self)
        if not 0 < self.start <= 1:
            raise ValueError(f"start: expected a number in (0, 1], got {self.start!r}")
        if self.ramp < 0:
            raise ValueError(f"ramp: expected a number of steps, 0 or more, got {self.ramp}")
        self.ownership.experts(self.node)

    def begin_step(self, model: nn.Module, step: int) -> None:
        """The factor is a function of the step."""
        self._step = step

    def emphasis(self) -> Tensor | None:
        """Factors [M], or ``None`` where all are 1."""
        if self.ownership.num_nodes == 1 or self._step >= self.ramp:
            return None
        factors = torch.ones(self.ownership.num_experts)
        own = self.ownership.experts(self.node)
        factors[own.start : own.stop] = self.start + (1 - self.start) * self._step / self.ramp
        return factors
