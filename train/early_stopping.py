"""Stopping a run whose validation has ceased to improve.

An evaluation improves on the best one so far when it is better by more than ``min_delta``. After ``patience``
evaluations in a row that do not, the run is over (Prechelt, "Early Stopping - But When?", 1998, the criterion UP with
strips of one evaluation). What it has seen is part of the trainer's checkpoints: a resumed run stops at the same step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODES = ("min", "max")


@dataclass
class EarlyStopping:
    """Watches ``metric`` at the evaluations of a trainer (``val_loss``, or what a method reports).

    ``mode`` says whether less (``"min"``) or more (``"max"``) is better. A metric that is not finite never improves.
    ``best``, ``best_step`` and ``waited`` (evaluations since) are what it has seen. Raises ``ValueError`` for settings
    out of range.
    """

    metric: str = "val_loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: str = "min"
    best: float | None = field(default=None, init=False)
    best_step: int = field(default=0, init=False)
    waited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience: expected at least 1, got {self.patience}")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise ValueError(f"min_delta: expected a finite number of at least 0, got {self.min_delta!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode: expected {' or '.join(MODES)}, got {self.mode!r}")

    @property
    def stopped(self) -> bool:
        """Whether the run is over."""
        return self.waited >= self.patience

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in an evaluation after ``step`` steps. Raises ``ValueError`` when it has no such metric."""
        if self.metric not in metrics:
            known = ", ".join(sorted(metrics))
            raise ValueError(f"early_stopping: metric {self.metric!r} is not reported; known: {known}")
        value = metrics[self.metric]
        if self._improves(value):
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta

    def _settings(self) -> dict[str, Any]:
        return {"metric": self.metric, "patience": self.patience, "min_delta": self.min_delta, "mode": self.mode}

    def state_dict(self) -> dict[str, Any]:
        """The settings, and what was seen."""
        return {**self._settings(), "best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what was seen; ``ValueError`` for other settings."""
        for name, ours in self._settings().items():
            if state[name] != ours:
                raise ValueError(f"early_stopping: the saved run had {name}={state[name]!r}, this one {ours!r}")
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]
