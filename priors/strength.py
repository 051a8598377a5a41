"""How strongly BackSlash pulls, λ, as a function of the step: schedules, and λ for another number of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

Strength: TypeAlias = float | Callable[[int], float]
"""λ, or a function of the step (0 for the first) that gives it."""

PUBLISHED_PER_PARAMETER = 1000 / 1.1e8
"""λ/N of the published run with λ = 1000 of a model of 110 million parameters (BackSlash, figure 4)."""


def scaled_strength(num_parameters: int, per_parameter: float = PUBLISHED_PER_PARAMETER) -> float:
    """λ for a model of this size: λ/N, not λ, is what a weight feels, because the rate is a mean over N parameters."""
    if num_parameters < 1:
        raise ValueError(f"num_parameters: got {num_parameters}, accepted: at least 1")
    return _checked("per_parameter", per_parameter) * num_parameters


def strength_at(strength: Strength, step: int) -> float:
    """λ of a step. ValueError where a schedule gives what is no strength."""
    return _checked("strength", strength(step) if callable(strength) else strength)


def check_strength(strength: Strength) -> None:
    """ValueError or TypeError for what is neither a finite number >= 0 nor a function."""
    if not callable(strength):
        _checked("strength", strength)


def _checked(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, accepted: a number >= 0, or for a strength a function of the step")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: got {value!r}, accepted: finite numbers >= 0")
    return float(value)


@dataclass(frozen=True)
class LinearWarmup:
    """Rises from `peak`/`steps` at step 0 to `peak` at step `steps` - 1, and stays there."""

    peak: float
    steps: int

    def __post_init__(self) -> None:
        _checked("peak", self.peak)
        _check_steps(self.steps)

    def __call__(self, step: int) -> float:
        return self.peak * min(1.0, (step + 1) / self.steps)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` at step 0 to `end` at step `steps` - 1; past it, `end`."""

    start: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _checked("start", self.start)
        _checked("end", self.end)
        _check_steps(self.steps)

    def __call__(self, step: int) -> float:
        progress = min(1.0, step / max(1, self.steps - 1))
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * progress)) / 2.0


@dataclass(frozen=True)
class Until:
    """`strength` before step `steps`, 0 from there on: compression first, ordinary training after it."""

    strength: Strength
    steps: int

    def __post_init__(self) -> None:
        check_strength(self.strength)
        _check_steps(self.steps)

    def __call__(self, step: int) -> float:
        return strength_at(self.strength, step) if step < self.steps else 0.0


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps: got {steps}, accepted: at least 1")
