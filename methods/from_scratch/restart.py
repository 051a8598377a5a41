"""Going on with a part of what a run was: for old checkpoints without the rest, and to see what the rest is for."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from narrowgauge.train import Schedule, Trainer, load_checkpoint
from narrowgauge.train.run_state import restore_run, run_state

PARTS = ("optimizer", "data", "methods")
"""What may be left out: the optimizer's moments and step count, the position in the data, the methods' states."""


def restart(trainer: Trainer, path: str | Path, *, without: Collection[str] = ()) -> None:
    """Continue at the step of the checkpoint at ``path``, ``without`` some of :data:`PARTS`.

    ``trainer`` is a new one; the parts that are left out stay as they are in it. With nothing left out it is
    ``trainer.resume(path)``. Raises ``ValueError`` for an unknown part, for a trainer that has already trained, and
    where resuming does.
    """
    unknown = sorted(set(without) - set(PARTS))
    if unknown:
        raise ValueError(f"without: unknown part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    if trainer.step:
        raise ValueError(f"trainer: expected a new one, got one that has done {trainer.step} steps")
    saved, fresh = load_checkpoint(path), run_state(trainer)
    for part in without:
        if part == "data":
            saved["loop"]["data"] = fresh["loop"]["data"]
        else:
            saved[part] = fresh[part]
    restore_run(trainer, saved, path)


@dataclass(frozen=True, slots=True)
class Rewarmed:
    """``schedule``, but rising again from 0 after a restart at step ``start``: the factor of step ``s`` is
    ``min(1, (s - start + 1) / steps)``, from ``start`` on.

    Adam without its moments takes steps of the full learning rate in the direction of the gradient's sign; small
    steps give the moments time. Raises ``ValueError`` for a negative ``start`` and ``steps`` below 1.
    """

    schedule: Schedule
    start: int
    steps: int

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ValueError(f"start: expected 0 or more, got {self.start!r}")
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps!r}")

    def __call__(self, step: int) -> float:
        """Learning rate of ``step``."""
        rate = self.schedule(step)
        return rate if step < self.start else rate * min(1.0, (step - self.start + 1) / self.steps)
