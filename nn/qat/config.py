"""`QATConfig`: which fake quantisers a linear layer gets, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from narrowgauge.nn.qat.llm_qat import KV_LAYERS
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, WeightQuantizer


@dataclass(frozen=True)
class Part:
    """A module's class and its settings, by which each layer gets a module of its own: `part(LSQWeight, bits=3)`.

    The settings are checked at once, by making such a module.
    """

    kind: Callable[..., nn.Module]
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        self.make()

    def make(self) -> nn.Module:
        """A new module, which has the part as its attribute `part`."""
        module = self.kind(**dict(self.settings))
        module.part = self  # type: ignore[assignment]
        return module

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings)
        return f"{getattr(self.kind, '__name__', self.kind)}({settings})"


def part(kind: Callable[..., nn.Module], **settings: Any) -> Part:
    """A `Part` from keywords."""
    return Part(kind, tuple(settings.items()))


@dataclass(frozen=True)
class Phase:
    """When quantisation sets in: after `start` steps, λ going from 0 to 1 in `ramp` further ones (0: at once)."""

    start: int
    ramp: int = 0

    def __post_init__(self) -> None:
        for name in ("start", "ramp"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}: got {value!r}, accepted: a whole number of steps, at least 0")

    def strength(self, step: int) -> float:
        """λ after `step` optimizer steps."""
        if step < self.start:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (step - self.start) / self.ramp)


@dataclass(frozen=True, kw_only=True)
class QATConfig:
    """Fake quantisers of a linear layer under a name; None leaves a tensor as it is.

    weight: a `WeightQuantizer`. activation: an `ActivationQuantizer` of the input. kv: an `ActivationQuantizer` of the
    output, for layers whose last name part is in `kv_layers`. gradient: a module after the output whose backward
    quantises the gradient. phase: when it sets in (`ContinualQAT` drives it). source: where it was published.
    """

    name: str
    weight: Part
    activation: Part | None = None
    kv: Part | None = None
    gradient: Part | None = None
    kv_layers: tuple[str, ...] = KV_LAYERS
    phase: Phase | None = None
    source: str = ""

    def __post_init__(self) -> None:
        kinds = {"weight": WeightQuantizer, "activation": ActivationQuantizer, "kv": ActivationQuantizer}
        for name, kind in kinds.items():
            given = getattr(self, name)
            if given is None and name != "weight":
                continue
            if not isinstance(given, Part) or not isinstance(given.make(), kind):
                raise TypeError(f"{name}: expected part(a {kind.__name__}, …), got {given}")
