"""Experiments that hold a method's claims against a control, seed by seed.

One seed trains all arms, on the same batches from the same weights where that makes sense, and gives named numbers;
the claims (:mod:`narrowgauge.train.claims`) compare them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train.claims import MIN_SEEDS, Claim, Values
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.data import BatchSource
from narrowgauge.train.method import Method, ParameterGroup
from narrowgauge.train.model import Llama
from narrowgauge.train.optimizers import OptimizerFactory
from narrowgauge.train.schedule import Schedule, WarmupCosine
from narrowgauge.train.trainer import Trainer

BETAS = (0.9, 0.95)

Tell = Callable[[float, str], None]
"""tell(share of the work that is done, what is at work)."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """``setting``: a paragraph on model, data, arms and steps. ``run``: all arms of one seed, named numbers.

    ``seeds``: how many are needed, from 0; at least 2.
    """

    setting: str
    claims: tuple[Claim, ...]
    run: Callable[[Context], Values]
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.seeds < MIN_SEEDS:
            raise ValueError(f"seeds: expected at least {MIN_SEEDS}, got {self.seeds}")
        if not any(claim.judged for claim in self.claims):
            raise ValueError("claims: expected at least one that is judged")


def _silent(share: float, what: str) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Context:
    """One seed of an experiment: its random numbers, its numerics, its size.

    ``recipe`` and ``state``: the recipe of the linear layers and the code of AdamW's moments under which the claims
    are checked; ``None``: float32. ``scale``: share of the steps and examples, below 1 only to try whether an
    experiment runs at all.
    """

    seed: int
    recipe: str | None = None
    state: str | None = None
    scale: float = 1.0
    tell: Tell = _silent
    _label: str = ""
    _from: float = 0.0
    _share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale: expected a number in (0, 1], got {self.scale!r}")

    def steps(self, steps: int) -> int:
        """So many steps, or fewer where the experiment is only tried."""
        return self.count(steps, least=2)

    def count(self, count: int, least: int = 1) -> int:
        """A number of examples, updates or the like, scaled; not below ``least``, not above ``count``."""
        return min(count, max(least, round(count * self.scale)))

    def begin(self, label: str, share: float) -> None:
        """The arm called ``label`` begins; with it, the share of the seed's work that is done moves on by ``share``."""
        self._from = min(1.0, self._from + (self._share if self._label else 0.0))
        self._label, self._share = label, share
        self.tell(self._from, label)

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model with its linear layers in the recipe, if there is one."""
        return model if self.recipe is None else convert(model, self.recipe)

    def optimizer(self, lr: float, weight_decay: float = 0.1) -> OptimizerFactory:
        """AdamW of parameter groups, with its moments in ``state``."""

        def build(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
            if self.state is None:
                return torch.optim.AdamW(groups, lr=lr, betas=BETAS, weight_decay=weight_decay)
            return AdamW(groups, lr=lr, betas=BETAS, weight_decay=weight_decay, state=self.state, seed=self.seed)

        return build

    def fit(
        self,
        model: nn.Module,
        data: BatchSource,
        steps: int,
        *,
        lr: float = 3e-3,
        methods: Sequence[Method] = (),
        weight_decay: float = 0.1,
        warmup: float = 0.05,
        final_ratio: float = 0.1,
        schedule: Schedule | None = None,
        **settings: Any,
    ) -> Trainer:
        """Train ``model`` for ``steps`` steps; the trainer, with ``trainer.model`` as it is then.

        AdamW (0.9, 0.95); a linear warm-up over a share ``warmup`` of the steps and a cosine down to ``final_ratio``
        of ``lr``, or another ``schedule``. ``settings`` go to the :class:`Trainer`. The model is not converted here.
        """
        rate = WarmupCosine(lr, steps, int(warmup * steps), final_ratio) if schedule is None else schedule
        settings = {"seed": self.seed, "logger": _Progress(self, steps), **settings}
        trainer = Trainer(model, data, self.optimizer(lr, weight_decay), schedule=rate, methods=methods, **settings)
        trainer.fit(steps)
        return trainer


class _Progress:
    """A logger that tells how far an arm is."""

    def __init__(self, context: Context, steps: int) -> None:
        self._context, self._steps = context, steps

    def start(self, first: int, last: int) -> None:
        """Nothing to open."""

    def log(self, step: int, metrics: Values) -> None:
        """Each twentieth of the steps."""
        if step % max(1, self._steps // 20) == 0:
            context = self._context
            context.tell(context._from, f"{context._label}: step {step} of {self._steps}, loss {metrics['loss']:.3f}")

    def stop(self) -> None:
        """Nothing to close."""


def tiny_llama(seed: int, **changes: Any) -> Llama:
    """The experiments' model: preset ``tiny``, 0.13 M parameters; ``changes`` of :class:`LlamaConfig`'s fields."""
    return Llama(dataclasses.replace(LlamaConfig.preset("tiny"), **changes), seed=seed)
