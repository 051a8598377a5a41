"""Everything a run is, as the sections of a checkpoint, and back.

Tensors are whole, whatever the number of processes: a run may go on in fewer or more of them. Bits stay those of the
unbroken run at the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.train.restore import restore_model, restore_optimizer
from narrowgauge.train.rng import global_state, set_global_state
from narrowgauge.train.whole_state import placed, whole

if TYPE_CHECKING:
    from narrowgauge.train.trainer import Trainer


def run_state(trainer: Trainer) -> dict[str, Any]:
    """The sections ``model``, ``optimizer``, ``methods``, ``loop``. Every process of the run has to call it; only the
    first gets whole tensors."""
    stopping = trainer.early_stopping
    loop = {
        "step": trainer.step,
        "seed": trainer.seed,
        "grad_accumulation": trainer.grad_accumulation,
        "optimizer": type(trainer.optimizer).__name__,
        "data": trainer.data.state_dict(),
        "rng": global_state(trainer.device),
        "early_stopping": None if stopping is None else stopping.state_dict(),
    }
    sections = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "methods": trainer.methods.state_dict(),
    }
    kept = trainer.processes.first
    return {**{name: whole(state, kept=kept) for name, state in sections.items()}, "loop": loop}


def restore_run(trainer: Trainer, saved: Mapping[str, Any], path: str | Path) -> None:
    """Put a trainer where the run that was saved at ``path`` was.

    Raises ``ValueError`` for one of another model, optimizer, data, seed, methods or rule of stopping.
    """
    loop = saved["loop"]
    ours = {"seed": trainer.seed, "grad_accumulation": trainer.grad_accumulation}
    for name, value in {**ours, "optimizer": type(trainer.optimizer).__name__}.items():
        if loop[name] != value:
            raise ValueError(f"{name}: the checkpoint at {path} has {loop[name]!r}, this trainer {value!r}")
    seen = loop.get("early_stopping")
    if (seen is None) != (trainer.early_stopping is None):
        states = ("stops early", "does not") if trainer.early_stopping is None else ("does not stop early", "does")
        raise ValueError(f"early_stopping: the run saved at {path} {states[0]}, this one {states[1]}")
    restore_model(trainer.model, saved["model"])
    trainer.methods.load_state_dict(placed(saved["methods"], trainer.methods.state_dict()))
    trainer.data.load_state_dict(loop["data"])
    restore_optimizer(trainer.optimizer, saved["optimizer"])
    if trainer.early_stopping is not None:
        trainer.early_stopping.load_state_dict(seen)
    set_global_state(loop["rng"], trainer.device)
    trainer.step = loop["step"]
