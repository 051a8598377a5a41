"""The plug-in: gradients of output units that answered weakly are dropped, and those units stay as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from narrowgauge.methods.migu.capture import Capture, Rows
from narrowgauge.methods.migu.experiment import migu_experiment
from narrowgauge.train import Experiment, PublishedMethod, register
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tokens import PAD

CHOICES = ("largest", "smallest", "random")


def num_kept(units: int, threshold: float) -> int:
    """``⌈(1 - threshold) · units⌉``, as decimal arithmetic has it."""
    return math.ceil(round((1 - threshold) * units, 9))


def strongest(total: Tensor, count: int) -> Tensor:
    """Bool [N]: which entries are among the ``count`` largest; more of them where the last place is tied."""
    return total >= total.topk(count).values[-1]


@register
@dataclass(eq=False)
class MIGU(PublishedMethod):
    """Trains only the output units of linear layers that answer most strongly in the step at hand.

    ``threshold`` T in [0, 1): share of a layer's units that a step leaves alone. ``begin``: first step that does so;
    before it, the first task of a stream, training is ordinary. ``choice``: which units are trained, "largest" as
    published, or "smallest" or "random" (drawn from ``seed``, step and name) as controls. ``skip``: layers that are
    not touched, patterns as of :func:`narrowgauge.convert`. ``pad``: token number that does not count, or ``None``.

    Ranks of a distributed run must hold whole weights. Raises ``ValueError`` for other settings, and for a model
    without such layers.
    """

    name = "migu"
    summary = "train only the output units that answer most strongly; the others keep what they know"
    paper = "Unlocking Continual Learning Abilities in Language Models (EMNLP 2024 Findings)"
    arxiv = "2406.17245"
    usage = "narrowgauge train --method migu:threshold=0.7"
    needs_old_params = True

    threshold: float = 0.7
    begin: int = 0
    choice: str = "largest"
    skip: tuple[str, ...] = ("lm_head",)
    pad: int | None = PAD
    seed: int = 0
    capture: Capture | None = field(default=None, init=False, repr=False)
    _kept: list[tuple[Rows, Tensor]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: expected a share in [0, 1), got {self.threshold!r}")
        if self.begin < 0:
            raise ValueError(f"begin: expected a step, 0 or more, got {self.begin}")
        if self.choice not in CHOICES:
            raise ValueError(f"choice: expected one of {', '.join(CHOICES)}, got {self.choice!r}")
        if isinstance(self.skip, str):
            self.skip = (self.skip,)

    def attach(self, model: nn.Module) -> None:
        """Watch the layers' outputs."""
        self.remove()
        self.capture = Capture(model, self.skip, self.pad)

    def remove(self) -> None:
        """Take the hooks off the model; the method does nothing from then on."""
        if self.capture is not None:
            self.capture.remove()
        self.capture = None
        self._kept.clear()

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Forget the step before."""
        self._kept.clear()
        if self.capture is not None:
            self.capture.clear()

    def gradient(self, model: nn.Module, step: int) -> None:
        """Choose the units and drop the gradients of the others, before clipping."""
        if self.capture is None or step < self.begin or self.threshold == 0:
            return
        self.capture.reduce()
        for rows in self.capture.rows:
            if rows.total is not None:
                kept = self._choose(rows.total, f"{step}:{next(iter(rows.parameters))}")
                self._kept.append((rows, kept))
                for parameter in rows.parameters.values():
                    if parameter.grad is not None:
                        parameter.grad[~kept] = 0

    def _choose(self, total: Tensor, purpose: str) -> Tensor:
        count = num_kept(total.numel(), self.threshold)
        if self.choice == "random":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, purpose))
            total = torch.rand(total.numel(), generator=generator).to(total.device)
        return strongest(-total if self.choice == "smallest" else total, count)

    @torch.no_grad()
    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """Undo what momentum and weight decay did to the units without a gradient."""
        assert old is not None  # needs_old_params
        for rows, kept in self._kept:
            for name, parameter in rows.parameters.items():
                parameter[~kept] = old[name][~kept]

    @classmethod
    def experiment(cls) -> Experiment:
        """What is forgotten when the same has been learned, against full training and weak units."""
        return migu_experiment(cls)
