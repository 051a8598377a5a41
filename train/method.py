"""What a training method may change, and the register of all methods.

A method overrides the hooks it needs and leaves the others. The trainer calls them in this order, for every
method in the order in which they were given::

    once      surgery · parameter_groups · source · attach
    a step    lr_factor · transform (each micro-batch) · begin_step · loss (each micro-batch)
              gradient (accumulated, not yet clipped) · post_step
    else      evaluate · state_dict · load_state_dict

Training in phases needs no hook: it is several trainers in a row that share a model.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.effect import Effect

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

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Called before the first forward of a step."""

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Change a micro-batch, on the CPU; all randomness from ``rng``, a function of seed and step."""
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics] | None:
        """A mean over the labelled tokens, and metrics to log; ``None`` is the trainer's cross-entropy."""
        return None

    def gradient(self, model: nn.Module, step: int) -> None:
        """Change ``.grad`` in place, after accumulation and before clipping."""

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """Called after the optimizer's step; ``old``: the parameters before it, if ``needs_old_params``."""

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], Metrics]) -> Metrics:
        """More metrics for an evaluation; ``evaluate(model)`` gives the trainer's own."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: nested dict, list, tuple of plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Whether this class has its own ``hook``."""
        return getattr(cls, hook) is not getattr(Method, hook)


class PublishedMethod(Method, ABC):
    """A method with a name in the register: it says whose it is, and it can show its effect."""

    @classmethod
    @abstractmethod
    def experiment(cls) -> Effect:
        """A scaled-down run against a control, over several seeds; seconds on one core."""


METHODS: dict[str, type[PublishedMethod]] = {}
"""Registered methods by name; filled when :mod:`narrowgauge.methods` is imported."""

M = TypeVar("M", bound=PublishedMethod)


def register(cls: type[M]) -> type[M]:
    """Class decorator: put a method into :data:`METHODS`.

    Raises ``ValueError`` when the name is taken, or name, summary, paper or ``experiment()`` is missing.
    """
    for field in ("name", "summary", "paper"):
        if not getattr(cls, field):
            raise ValueError(f"{field}: method class {cls.__name__} has none")
    if "experiment" in cls.__abstractmethods__:
        raise ValueError(f"experiment: method {cls.name!r} has no experiment() that shows its effect")
    if cls.name in METHODS:
        raise ValueError(f"name: {cls.name!r} is already the name of {METHODS[cls.name].__qualname__}")
    METHODS[cls.name] = cls
    return cls


def get_method(name: str) -> type[PublishedMethod]:
    """The class registered as ``name``; ``ValueError`` with the nearest names for an unknown one."""
    if name not in METHODS:
        nearest = difflib.get_close_matches(name, METHODS, n=3) or sorted(METHODS)
        raise ValueError(f"name: unknown method {name!r}; nearest: {', '.join(nearest) or 'none is registered'}")
    return METHODS[name]
