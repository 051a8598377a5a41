"""Which checkpoint a run goes on from."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from narrowgauge.train.checkpoint import load_checkpoint
from narrowgauge.train.checkpoint_names import STATE_FILE, generations

MODES = ("auto", "newest")


@dataclass(frozen=True)
class FoundCheckpoint:
    """``path`` of a whole checkpoint, the ``step`` it was written after, and what was ``skipped``: path → why."""

    path: Path
    step: int
    skipped: dict[Path, str]

    def __str__(self) -> str:
        lines = [f"step {self.step}: {self.path}"]
        return "\n".join([*lines, *(f"skipped {path}: {why}" for path, why in self.skipped.items())])


def find_checkpoint(folder: str | Path, mode: str = "auto") -> FoundCheckpoint | None:
    """The newest checkpoint that is whole, or ``None`` where none was ever written.

    ``folder`` is a checkpoint's path, as given to a trainer's ``save_path``, or the folder of a run that holds
    checkpoints; of several names the one of the latest step is the newest. ``mode="auto"`` skips damaged ones and says
    which and why, ``"newest"`` refuses the newest if it is damaged. Raises ``ValueError`` when all are damaged, and for
    another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected {' or '.join(MODES)}, got {mode!r}")
    skipped: dict[Path, str] = {}
    for path in _candidates(Path(folder).absolute()):
        try:
            return FoundCheckpoint(path, int(load_checkpoint(path)["loop"]["step"]), skipped)
        except ValueError as error:
            if mode == "newest":
                raise
            skipped[path] = str(error)
        except (KeyError, TypeError):
            skipped[path] = "it is not of a training run"
    if skipped:
        raise ValueError("folder: every checkpoint is damaged\n" + "\n".join(map(str, skipped.values())))
    return None


def _candidates(folder: Path) -> list[Path]:
    """Newest first."""
    own = generations(folder)
    if any((path / STATE_FILE).exists() for path in own) or not folder.is_dir():
        return own
    inner = [path for path in folder.iterdir() if (path / STATE_FILE).is_file() and not path.name.startswith(".")]
    return sorted(inner, key=lambda path: (_claimed_step(path), (path / STATE_FILE).stat().st_mtime_ns), reverse=True)


def _claimed_step(path: Path) -> int:
    """The step that a checkpoint says it is of; whether it is whole is another matter, so anything may be wrong."""
    try:
        return int(json.loads((path / STATE_FILE).read_bytes())["sections"]["loop"]["dict"]["step"])
    except (ValueError, KeyError, TypeError, OSError):
        return sys.maxsize  # first in line, so that it is named among the skipped
