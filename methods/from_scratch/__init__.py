"""Training from scratch, and going on after a stop as if there had been none.

Paper: Li, Fung, Huang, "Experience of Training a 1.7B-Parameter LLaMa Model From Scratch" (DMaS-LLaMa-Lite), 2024,
arXiv:2412.13335: an experience report. Its lesson for a loop: a checkpoint needs the optimizer's state too, otherwise
the loss jumps after a resume and takes long to recover.

Why it jumps. Adam's update is ``lr · m̂ / (sqrt(v̂) + eps)``. With ``m = v = 0`` and step count 0 the first one is
``lr · g / |g|``: every weight moves by the whole learning rate, whatever the size of its gradient. That update comes
after the first loss, so the second one is the first to be worse. A rate that warms up again makes the jump smaller.

A checkpoint here holds weights, optimizer (moments, step count), methods, data position (epoch, offset, and what it is
a position in), the generators, the step; it is written between two steps, so there are no half-accumulated gradients.
The learning rate is a function of the step and of the horizon: adding the steps done to the horizon on resume, as the
paper's released script does, stretches the cosine and makes the rate jump. ``FromScratch`` refuses another horizon;
``restart`` goes on without parts of the state, where they are lost; ``Rewarmed`` is the schedule for that.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from narrowgauge.methods.from_scratch.experiment import build
from narrowgauge.methods.from_scratch.restart import PARTS, Rewarmed, restart
from narrowgauge.train import Experiment, PublishedMethod, register
from narrowgauge.train.data import Batch

__all__ = ["PARTS", "FromScratch", "Rewarmed", "restart"]


@register
@dataclass(eq=False)
class FromScratch(PublishedMethod):
    """Refuses to resume a run as another one; counts the tokens that it has read.

    ``steps``: the horizon, the step at which the schedule ends. A checkpoint of a run with another horizon is refused,
    as its learning rate would jump; ``extend`` allows it, for a schedule that is meant to. ``settings``: any text that
    must be the same on both sides, such as the run's configuration file. ``from_scratch_tokens`` comes with every
    evaluation: the tokens this process has read. Raises ``ValueError`` for ``steps`` below 1.
    """

    name = "from_scratch"
    summary = "resume a run as itself or not at all: horizon and settings are checked, tokens counted"
    paper = "Experience of Training a 1.7B-Parameter LLaMa Model From Scratch"
    arxiv = "2412.13335"
    usage = "narrowgauge train --steps 300 --method from_scratch:steps=300"

    steps: int = 0
    extend: bool = False
    settings: str = ""
    tokens: int = field(default=0, init=False)
    """Tokens read so far, by this process."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected the run's number of steps, at least 1, got {self.steps!r}")

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Count the tokens; the batch is left as it is."""
        self.tokens += batch["labels"].numel()
        return batch

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        """How many tokens were read."""
        return {"from_scratch_tokens": float(self.tokens)}

    def _digest(self) -> str:
        return hashlib.sha256(self.settings.encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Horizon, a digest of the settings, the tokens."""
        return {"steps": self.steps, "settings": self._digest(), "tokens": self.tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the count; ``ValueError`` for a run of another length or with other settings."""
        if state["steps"] != self.steps and not self.extend:
            raise ValueError(
                f"steps: the saved run ends at step {state['steps']}, this one at {self.steps}; its learning rate would"
                " jump (extend=True allows it)"
            )
        if state["settings"] != self._digest():
            raise ValueError("settings: the saved run has other settings than this one")
        self.tokens = int(state["tokens"])

    @classmethod
    def experiment(cls) -> Experiment:
        """An unbroken run against runs that are stopped in the middle and get back all, or not all, of their state."""
        return build()
