"""Training in phases: several trainers in a row, each with the model that the one before leaves.

The folder of such a run holds one checkpoint a phase and ``phases.json``, which says which are done. Resuming builds
the finished phases again, gives each model the weights it had at its end, and goes on inside the phase that was
interrupted: the bits are those of a run that never was, as long as ``build`` is a function of the model it is given
(and of constants).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from narrowgauge.atomic_files import replacing
from narrowgauge.train.find_checkpoint import find_checkpoint
from narrowgauge.train.method import Metrics
from narrowgauge.train.trainer import Trainer
from narrowgauge.train.tree import flatten, unflatten

PHASES_FILE = "phases.json"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Phase:
    """``build`` makes the trainer from the model of the phase before (``None`` for the first), ``steps`` it trains.

    ``name`` is also a folder's. Raises ``ValueError`` for a name that cannot be one and for negative ``steps``.
    """

    name: str
    steps: int
    build: Callable[[nn.Module | None], Trainer]

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or set(self.name) & set("/\\"):
            raise ValueError(f"name: expected the name of a folder, got {self.name!r}")
        if self.steps < 0:
            raise ValueError(f"steps: expected 0 or more, got {self.steps}")


@dataclass(frozen=True)
class PhasesResult:
    """``trainer`` of the last phase, and the last ``metrics`` of each phase by its name."""

    trainer: Trainer
    metrics: dict[str, Metrics]


def run_phases(
    phases: Sequence[Phase], folder: str | Path | None = None, *, save_every: int = 0, keep: int = 2
) -> PhasesResult:
    """Run the phases, or go on with them where ``folder`` holds a run that was interrupted.

    Every phase writes a checkpoint to ``folder/NAME/checkpoint`` at its end, and every ``save_every`` steps (0: at its
    end alone); of each, ``keep`` stay. Without a folder nothing is written. Raises ``ValueError`` for no or equally
    named phases, for a folder of other phases, and for a trainer with a ``save_path`` of its own.
    """
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) < len(names):
        raise ValueError(f"phases: expected at least one, each with a name of its own, got {names}")
    if save_every < 0 or (save_every and folder is None):
        raise ValueError(f"save_every: expected 0, or more together with a folder, got {save_every}")
    folder = None if folder is None else Path(folder)
    done = _read(folder, phases)
    model: nn.Module | None = None
    for phase in phases:
        trainer = phase.build(model)
        if trainer.save_path is not None:
            raise ValueError(f"build: phase {phase.name!r} saves to {trainer.save_path}; run_phases does that itself")
        if folder is None:
            done[phase.name] = trainer.fit(phase.steps)
        else:
            _run(phase, trainer, folder, done, save_every=save_every, keep=keep)
        model = trainer.model
    return PhasesResult(trainer, done)


def _run(phase: Phase, trainer: Trainer, folder: Path, done: dict[str, Metrics], *, save_every: int, keep: int) -> None:
    path = folder / phase.name / CHECKPOINT
    if (found := find_checkpoint(path)) is not None:
        trainer.resume(found.path)
    if phase.name in done:
        if trainer.step < phase.steps and not trainer.stopped:
            raise ValueError(f"folder: phase {phase.name!r} is done, but {path} is of step {trainer.step}")
        return
    trainer.keep, first = keep, trainer.step
    if save_every:
        trainer.save_every, trainer.save_path = save_every, path
    metrics = trainer.fit(phase.steps)
    moved = trainer.step > first
    if (moved and not save_every) or (not moved and found is None):  # fit itself saves after its last step
        trainer.save(path)
    done[phase.name] = metrics if moved or found is None else trainer.evaluate()  # killed before it was noted as done
    trainer.processes.first_does(lambda: _write(folder, done))


def _write(folder: Path, done: dict[str, Metrics]) -> None:
    with replacing(folder / PHASES_FILE) as partial:
        partial.write_text(json.dumps(flatten(done)[0], indent=1) + "\n", encoding="utf-8")


def _read(folder: Path | None, phases: Sequence[Phase]) -> dict[str, Metrics]:
    """Metrics of the phases that are done."""
    if folder is None or not (folder / PHASES_FILE).exists():
        return {}
    done: dict[str, Metrics] = unflatten(json.loads((folder / PHASES_FILE).read_text(encoding="utf-8")), {})
    names = [phase.name for phase in phases]
    if list(done) != names[: len(done)]:
        raise ValueError(f"folder: {folder} holds the phases {list(done)}, these are {names}")
    return done
