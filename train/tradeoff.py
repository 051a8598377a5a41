"""Two losses along one run: what is being learned against what was known before.

Methods against forgetting also slow learning down, so comparing runs at equal steps rewards whoever learned least.
:class:`TradeOff` measures both losses at chosen steps; :func:`second_at` reads the second one off where the first has
a given value, by linear interpolation between two measurements.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.loss import cross_entropy, num_labelled
from narrowgauge.train.method import Method

Points = Sequence[tuple[float, float]]
"""(first loss, second loss) in the order in which they were measured, nats per token."""


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Cross-entropy of ``batches`` in nats per labelled token, in eval mode; the model gets its modes back.

    Raises ``ValueError`` when no token has a label.
    """
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        total, count = 0.0, 0
        for batch in batches:
            tokens = num_labelled(batch)
            if tokens:
                moved = {name: tensor.to(device) for name, tensor in batch.items()}
                total += cross_entropy(model, moved).item() * tokens
                count += tokens
    finally:
        for module in training:
            module.training = True
    if not count:
        raise ValueError("batches: expected at least one labelled token, got none")
    return total / count


class TradeOff(Method):
    """Measures the losses of ``first`` and ``second`` before training and whenever a number of steps in ``at`` is done.

    ``points`` are the results. Training does not notice it. Give it last, so that it sees what the others leave.
    """

    name = "trade_off"
    summary = "measure two losses along the run"

    def __init__(self, first: Sequence[Batch], second: Sequence[Batch], at: Collection[int]) -> None:
        self.first, self.second, self.at = first, second, frozenset(at)
        self.points: list[tuple[float, float]] = []

    def attach(self, model: nn.Module) -> None:
        """The losses before training."""
        self.points = []
        self._measure(model)

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """The losses after a step that was asked for."""
        if step + 1 in self.at:
            self._measure(model)

    def _measure(self, model: nn.Module) -> None:
        self.points.append((mean_loss(model, self.first), mean_loss(model, self.second)))

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {"points": list(self.points)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was measured."""
        self.points = [(float(first), float(second)) for first, second in state["points"]]


def lowest_first(points: Points) -> float:
    """The lowest first loss: the best level that the run can be read at."""
    return min(first for first, _ in points)


def second_at(points: Points, level: float) -> float:
    """The second loss where the first one comes down to ``level`` for the first time.

    Raises ``ValueError`` when it never does, or begins below.
    """
    if not points or points[0][0] < level:
        raise ValueError(f"level: expected at most the first loss at the beginning, got {level}, points={points[:1]}")
    for (above, before), (below, after) in pairwise(points):
        if below <= level:
            share = 1.0 if above == below else (above - level) / (above - below)
            return before + share * (after - before)
    if points[0][0] == level:
        return points[0][1]
    raise ValueError(f"level: expected at least {lowest_first(points)}, the lowest first loss, got {level}")
