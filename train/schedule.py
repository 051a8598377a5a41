"""Learning-rate schedules: callables from the step (0 for the first) to the learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


def _check_step(step: int) -> None:
    if step < 0:
        raise ValueError(f"step: expected 0 or more, got {step}")


@dataclass(frozen=True, slots=True)
class Constant:
    """The same learning rate at every step."""

    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(f"value: expected a finite number of at least 0, got {self.value!r}")

    def __call__(self, step: int) -> float:
        _check_step(step)
        return self.value


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """Linear to ``peak`` in ``warmup`` steps, then half a cosine to ``peak · final_ratio`` at ``steps - 1``.

    With ``s`` the step, ``s < warmup``: ``peak · (s+1)/warmup``; afterwards, with ``t =
    (s+1-warmup)/(steps-warmup)`` capped at 1: ``peak · (r + (1-r)·(1+cos(pi·t))/2)``, ``r = final_ratio``.
    The last warm-up step has the peak, no step has 0 unless ``final_ratio`` is 0, and steps past the end keep
    the final value.
    """

    peak: float
    steps: int
    warmup: int = 0
    final_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and self.peak >= 0):
            raise ValueError(f"peak: expected a finite number of at least 0, got {self.peak!r}")
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup: expected 0 … steps={self.steps}, got {self.warmup}")
        if not 0 <= self.final_ratio <= 1:
            raise ValueError(f"final_ratio: expected a number in [0, 1], got {self.final_ratio!r}")

    def __call__(self, step: int) -> float:
        _check_step(step)
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.warmup == self.steps:
            return self.peak * self.final_ratio
        progress = min(1.0, (step + 1 - self.warmup) / (self.steps - self.warmup))
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.peak * (self.final_ratio + (1 - self.final_ratio) * cosine)
