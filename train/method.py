"""What a training method may change.

A method overrides the hooks it needs and leaves the others. The trainer calls them in this order, for every
method in the order in which they were given::

    once      surgery · parameter_groups · source · attach
    a step    lr_factor · lr_scales · transform (each micro-batch) · begin_step · loss (each micro-batch)
              gradient (accumulated, not yet clipped) · post_step
    else      evaluate · state_dict · load_state_dict

Training in phases needs no hook: it is several trainers in a row that share a model
(:mod:`narrowgauge.train.phases`).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch, BatchSource

Metrics = dict[str, float]
ParameterGroup = dict[str, Any]
"""A group of an optimizer: ``params`` is a list of (name, parameter); ``lr_scale``, if any, multiplies the
schedule; every other key is the optimizer's."""


class Method:
    """Base class: every hook does nothing.

    ``name`` identifies the method, ``summary`` is a line on what it does, ``paper`` and ``arxiv`` say whose
    it is. ``needs`` and ``conflicts`` are names of other methods that must, or must not, be in the same run.
    A method that overrides ``loss`` or ``source`` replaces it, and at most one method of a run may do so. The
    fields of a method written as a dataclass are its settings.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    arxiv: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    needs_old_params: ClassVar[bool] = False

    def surgery(self, model: nn.Module) -> tuple[nn.Module, Mapping[str, str] | None]:
        """Change or replace the model; also the map old → new name of the parameters that got another."""
        return model, None

    def parameter_groups(self, model: nn.Module, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Other groups for the optimizer; the trainer must be given a function that builds it from groups."""
        return groups

    def source(self, data: BatchSource) -> BatchSource:
        """Another order or choice of batches: wrap or replace the run's source."""
        return data

    def attach(self, model: nn.Module) -> None:
        """Called once, when model and optimizer are ready: take copies, register forward hooks."""

    def lr_factor(self, step: int) -> float:
        """Multiplies the learning rate of ``step``."""
        return 1.0

    def lr_scales(self, step: int) -> Mapping[str, float] | None:
        """Parameter name → factor on the learning rate of ``step``, on top of schedule and factors; others 1.

        A trainer with a method that overrides this gives every parameter a group of its own, so it must be given
        a function that builds the optimizer from groups.
        """
        return None

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Called before the first forward of a step."""

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Change a micro-batch, on the CPU; all randomness from ``rng``, a function of seed and step."""
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics] | None:
        """A mean over the labelled tokens, and metrics to log; ``None`` is the trainer's cross-entropy.

        In several processes ``batch`` has this one's rows, and gradients are wanted of ``model(…)`` itself alone.
        """
        return None

    def gradient(self, model: nn.Module, step: int) -> None:
        """Change ``.grad`` in place, after accumulation and before clipping."""

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """Called after the optimizer's step; ``old``: the parameters before it, if ``needs_old_params``."""

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], Metrics]) -> Metrics:
        """More metrics for an evaluation; ``evaluate(model)`` gives the trainer's own."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: nested dict, list, tuple of plain values and tensors.

        Tensors in shards (of a run under FSDP2) are saved whole and come back cut as this method's are then.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Whether this class has its own ``hook``."""
        return getattr(cls, hook) is not getattr(Method, hook)
