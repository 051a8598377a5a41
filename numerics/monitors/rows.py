"""What a monitor records, and its JSONL file: one row a line, numbers that are not finite as texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from narrowgauge.numerics.sweeps.json_text import plain

_TEXTS = ("layer", "role", "scheme")
_FLOATS = ("amax", "rms", "scale_drift", "delayed_miss", "bits")
_DERIVED = ("amax_over_rms",)


@dataclass(frozen=True)
class MonitorRow:
    """One operand of one layer at one step, under one scheme.

    step: as given to `TensorMonitor.step`. amax, rms: of the whole tensor. scale_drift: log2 of amax over the
    amax of the observation before, None at the first. delayed_miss: amax over the largest of the observations
    in the history, which delayed scaling would take for the format's largest value: above 1 it clips; None at
    the first. metrics: of the sampled rows, as in `SweepRow`.
    """

    step: int
    layer: str
    role: str
    scheme: str
    amax: float
    rms: float
    scale_drift: float | None
    delayed_miss: float | None
    bits: float
    metrics: Mapping[str, float | None]

    @property
    def amax_over_rms(self) -> float:
        """Largest magnitude in units of the rms; 0 for a tensor of zeros."""
        return self.amax / self.rms if self.rms != 0.0 else 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise ratio in dB."""
        value = self.metrics["sqnr_db"]
        return math.nan if value is None else value


def row_dict(row: MonitorRow) -> dict[str, Any]:
    """A row as flat plain data: its fields, amax_over_rms, and its metrics by name."""
    fields = asdict(row)
    metrics = fields.pop("metrics")
    flat: dict[str, Any] = plain({**fields, "amax_over_rms": row.amax_over_rms, **metrics})
    return flat


def row_from(flat: Mapping[str, Any]) -> MonitorRow:
    """Inverse of `row_dict`. KeyError, TypeError or ValueError for other data."""
    known = {"step", *_TEXTS, *_FLOATS, *_DERIVED}
    metrics = {name: _float(value) for name, value in flat.items() if name not in known}
    fields: dict[str, Any] = {name: str(flat[name]) for name in _TEXTS}
    fields |= {name: _float(flat[name]) for name in _FLOATS}
    return MonitorRow(step=int(flat["step"]), metrics=metrics, **fields)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def write_rows(path: Path, rows: Iterable[MonitorRow], *, append: bool) -> None:
    """Writes a line for each row, after what is there or in its place."""
    lines = [json.dumps(row_dict(row), allow_nan=False) + "\n" for row in rows]
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.writelines(lines)


def read_rows(path: Path) -> list[MonitorRow]:
    """The rows of a monitor's file; a last line that a kill tore off is left out.

    ValueError, naming the line, for a file that is not a monitor's.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(row_from(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"path: line {number} of {path} is not a monitor's; give another path") from error
    return rows
