"""LISA, layerwise importance sampled AdamW: only a few random blocks are trained at a time.

Paper: Pan, Liu, Diao, Pi, Zhang, Han, Zhang, "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language
Model Fine-Tuning", NeurIPS 2024, arXiv:2403.17919; SGFT trains its guide with it.

Mechanism. Of the ``N`` blocks of a model, ``active`` are drawn at random every ``every`` steps. What is not in a block
(embeddings, last norm, head) is always trained; blocks that were not drawn have no gradient, so that an optimizer
leaves them alone, weight decay included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import nn

from narrowgauge.train.method import Method
from narrowgauge.train.rng import derive_seed

MODES = ("keep", "drop")


@dataclass(eq=False)
class LISA(Method):
    """Trains ``active`` of the blocks in the list named ``blocks``, others every ``every`` steps, drawn from ``seed``.

    ``optimizer_state`` of a block that is no longer active: "keep" leaves it as it is until the block is drawn again;
    "drop" removes it, and the method has to be told the optimizer before the first step (:meth:`bind`). Which blocks
    are active is a function of the settings and the step, so a resumed run needs nothing else.

    In one process frozen blocks cost no backward pass of their weights; in several their gradients are computed and
    dropped. Parameters that do not require gradients never do. Raises ``ValueError`` for other settings, and for a
    model without such a list or with fewer blocks.
    """

    name: ClassVar[str] = "lisa"
    summary: ClassVar[str] = "train a few random blocks at a time, and what is outside the blocks always"
    paper: ClassVar[str] = "LISA: Layerwise Importance Sampling for Memory-Efficient LLM Fine-Tuning (NeurIPS 2024)"
    arxiv: ClassVar[str] = "2403.17919"

    active: int = 1
    every: int = 20
    optimizer_state: str = "keep"
    blocks: str = "layers"
    seed: int = 0
    _parameters: list[list[nn.Parameter]] = field(default_factory=list, init=False, repr=False)
    _optimizer: torch.optim.Optimizer | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("active", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.optimizer_state not in MODES:
            raise ValueError(f"optimizer_state: expected one of {', '.join(MODES)}, got {self.optimizer_state!r}")

    def attach(self, model: nn.Module) -> None:
        """Find the blocks."""
        found = dict(model.named_modules()).get(self.blocks)
        if not isinstance(found, nn.ModuleList):
            raise ValueError(f"blocks: the model has no list of blocks named {self.blocks!r}")
        if len(found) < self.active:
            raise ValueError(f"active: the model has {len(found)} blocks, got {self.active}")
        self._parameters = [[p for p in block.parameters() if p.requires_grad] for block in found]

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Say whose state is dropped: ``lisa.bind(trainer.optimizer)``."""
        self._optimizer = optimizer

    def active_blocks(self, step: int) -> set[int]:
        """The indices of the blocks that ``step`` trains."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "lisa", step // self.every))
        return set(torch.randperm(len(self._parameters), generator=generator)[: self.active].tolist())

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Switch the frozen blocks' gradients off; drop their states where that is wanted."""
        if self.optimizer_state == "drop" and self._optimizer is None:
            raise ValueError(
                'optimizer_state: "drop" needs the optimizer; call bind(trainer.optimizer) before training'
            )
        # Wrappers for several processes wait for the gradient of everything that is trainable.
        self._each_frozen_requires_grad(step, _is_distributed())
        if self._optimizer is not None and self.optimizer_state == "drop":
            for parameter in self._frozen(step):
                self._optimizer.state.pop(parameter, None)

    def gradient(self, model: nn.Module, step: int) -> None:
        """No gradient for frozen blocks, which are trainable again for everybody else."""
        self._each_frozen_requires_grad(step, True)
        for parameter in self._frozen(step):
            parameter.grad = None

    def _frozen(self, step: int) -> list[nn.Parameter]:
        active = self.active_blocks(step)
        return [p for index, block in enumerate(self._parameters) if index not in active for p in block]

    def _each_frozen_requires_grad(self, step: int, value: bool) -> None:
        for parameter in self._frozen(step):
            parameter.requires_grad_(value)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
