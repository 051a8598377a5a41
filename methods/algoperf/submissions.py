"""Training algorithms that are compared: an optimizer, a schedule, methods, and the space of their hyperparameters.

A submission knows how many steps a workload has, and nothing else of it: there is no look-up by workload. The
baselines are those of the paper's §5 that set the targets, with warm-up over 5 % and a cosine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from narrowgauge.methods.algoperf.tuning import Span
from narrowgauge.optim import AdamW
from narrowgauge.train import Method, Schedule, WarmupCosine
from narrowgauge.train.method import ParameterGroup
from narrowgauge.train.optimizers import OptimizerFactory

WARMUP = 0.05


@dataclass(frozen=True, slots=True)
class Training:
    """What one trial trains with."""

    optimizer: OptimizerFactory
    schedule: Schedule
    methods: Sequence[Method] = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """``build(values, steps)`` makes the training of one trial from a point of ``space`` and the workload's steps.

    ``budget``: how many times the workload's steps a trial may take; the rules give self-tuning submissions, which
    have an empty space and one trial a study, 3 (paper) or 1.5 (version 0.6 of the rules).
    """

    name: str
    build: Callable[[Mapping[str, float], int], Training]
    space: Mapping[str, Span] = field(default_factory=dict)
    budget: float = 1.0

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"budget: expected a number above 0, got {self.budget!r}")


def _of(make: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[[Mapping[str, float], int], Training]:
    """A build function: ``make(groups, lr=…, **fixed)``; ``lr`` is the peak of the schedule, other values go along."""

    def build(values: Mapping[str, float], steps: int) -> Training:
        def optimizer(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
            return make(groups, **{**fixed, **values})

        return Training(optimizer, WarmupCosine(values["lr"], steps, int(WARMUP * steps), final_ratio=0.0))

    return build


def adamw(state: str | None = None) -> Submission:
    """AdamW (0.9, 0.99), its moments in the code ``state`` (``None``: float32)."""
    space = {"lr": Span(1e-3, 3e-2)}
    betas = (0.9, 0.99)
    if state is None:
        return Submission("adamw", _of(torch.optim.AdamW, betas=betas, weight_decay=0.01), space)
    return Submission("adamw", _of(AdamW, betas=betas, weight_decay=0.01, state=state), space)


def nadamw() -> Submission:
    """AdamW with Nesterov's momentum and decoupled weight decay."""
    make = _of(torch.optim.NAdam, betas=(0.9, 0.99), weight_decay=0.01, decoupled_weight_decay=True)
    return Submission("nadamw", make, {"lr": Span(1e-3, 3e-2)})


def nesterov() -> Submission:
    """Stochastic gradient descent with Nesterov's momentum 0.9."""
    make = _of(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-4)
    return Submission("nesterov", make, {"lr": Span(3e-2, 1.0)})


def heavy_ball() -> Submission:
    """Stochastic gradient descent with momentum 0.9."""
    return Submission("heavy ball", _of(torch.optim.SGD, momentum=0.9, weight_decay=1e-4), {"lr": Span(3e-2, 1.0)})


def broken() -> Submission:
    """AdamW with learning rates a thousand times too small: what a benchmark must give 0."""
    make = _of(torch.optim.AdamW, betas=(0.9, 0.99), weight_decay=0.01)
    return Submission("broken", make, {"lr": Span(1e-6, 3e-5)})
