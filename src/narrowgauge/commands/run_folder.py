"""The folder of a training run, read back: settings and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

CONFIG, METRICS = "config.json", "metrics.jsonl"
RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """config: what the run was told. metrics: name → (step, value) in the order of the steps."""

    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, list[tuple[int, float]]]

    @cached_property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.resolve().name

    @property
    def steps(self) -> int:
        """How many are done."""
        return max((points[-1][0] for points in self.metrics.values()), default=0)

    def last(self, metric: str) -> float | None:
        """The last value, None where the run has none."""
        points = self.metrics.get(metric)
        return points[-1][1] if points else None

    def best(self, metric: str) -> float | None:
        """The lowest value."""
        points = self.metrics.get(metric)
        return min(value for _, value in points) if points else None


def read_run(name: str | Path) -> Run:
    """A run by its folder, or by its name in runs/.

    Raises ValueError, with the nearest run, for a folder that holds none, and for files that are no JSON.
    """
    folder = Path(name)
    if not (folder / CONFIG).exists() and (RUNS / folder / CONFIG).exists():
        folder = RUNS / folder
    if not (folder / CONFIG).exists():
        near = get_close_matches(folder.name, [run.parent.name for run in RUNS.glob(f"*/{CONFIG}")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"run: {name} holds no training run ({CONFIG} is missing){hint}")
    config = _json(folder / CONFIG, (folder / CONFIG).read_text(encoding="utf-8"))
    metrics: dict[str, list[tuple[int, float]]] = {}
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for index, line in enumerate(lines):
        if index == len(lines) - 1 and not line.endswith("}"):
            break  # a killed run's last line
        values = _json(path, line)
        for key, value in values.items():
            if key != "step" and value is not None:
                metrics.setdefault(key, []).append((int(values["step"]), float(value)))
    return Run(folder, config, metrics)


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"run: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"run: {path}: expected an object, got {text[:40]!r}")
    return content


def runs_in(folder: Path) -> list[Run]:
    """All runs directly in a folder, by name. ValueError where there is no such folder."""
    if not folder.is_dir():
        raise ValueError(f"folder: {folder} does not exist; `narrowgauge train` makes runs/")
    return [read_run(path.parent) for path in sorted(folder.glob(f"*/{CONFIG}"))]
