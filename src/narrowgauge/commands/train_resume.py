"""Where a run goes on: `--resume`, `--resume auto`, `--resume PATH`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from narrowgauge.commands.run_folder import CONFIG
from narrowgauge.commands.train_settings import TrainConfig
from narrowgauge.nn import get_recipe
from narrowgauge.strict_json import dumps
from narrowgauge.train.checkpoint_names import generations
from narrowgauge.train.find_checkpoint import FoundCheckpoint, find_checkpoint

CHECKPOINT = "checkpoint"
NEWEST, AUTO = "newest", "auto"


def checkpoint_to_resume(config: TrainConfig, resume: str | None) -> FoundCheckpoint | None:
    """The checkpoint that a run goes on from; None for a run that begins.

    resume: None begins and refuses a folder that holds a run; "newest" takes the folder's newest checkpoint; "auto"
    the newest that is whole, and begins where there is none; a path takes that checkpoint, or the newest of that run.
    Raises ValueError for a folder that does not fit, and for a damaged checkpoint, with the one before it.
    """
    own = config.folder / CHECKPOINT
    has_run = bool(generations(own.absolute()))
    if resume is None:
        if has_run:
            raise ValueError(f"out: {config.folder} holds a run; continue it with --resume, or give another --out")
        return None
    if resume == AUTO:
        return find_checkpoint(own, AUTO)
    path = own if resume == NEWEST else Path(resume)
    if has_run and path.absolute().resolve() not in (config.folder.resolve(), *_resolved(own)):
        raise ValueError(
            f"resume: {config.folder} holds a run of its own; give another --out for what follows {resume}"
        )
    found = find_checkpoint(path, NEWEST)
    if found is None:
        where = config.folder if resume == NEWEST else resume
        raise ValueError(f"resume: {where} holds no checkpoint; leave --resume out to start one")
    return found


def set_aside(found: FoundCheckpoint) -> list[Path]:
    """Renames the damaged checkpoints that were passed over to NAME.damaged, in the place of an older one; the new
    names. Otherwise the next checkpoint would count them as the one before it, and a whole one would be removed."""
    moved = []
    for path in found.skipped:
        aside = path.with_name(f"{path.name}.damaged")
        if aside.exists():
            shutil.rmtree(aside)
        moved.append(path.rename(aside))
    return moved


def _resolved(path: Path) -> list[Path]:
    return [folder.resolve() for folder in generations(path.absolute())]


def settings_to_keep(config: TrainConfig) -> dict[str, Any]:
    """What config.json has: the configuration, and the recipe in full, because a file may change."""
    return {**dataclasses.asdict(config), "recipe_settings": get_recipe(config.recipe).to_dict()}


def changes(config: TrainConfig, settings: dict[str, Any]) -> list[str]:
    """A line for each setting that the run had otherwise before: what follows is another training."""
    path = config.folder / CONFIG
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = json.loads(dumps(settings))
    return [
        f"resumed with another {name}: {value}; before: {before[name]}"
        for name, value in now.items()
        if name in before and before[name] != value and name != "out"
    ]
