"""What a suite gives back: rows of timings, and the file that keeps them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from narrowgauge.bench.machine import Machine, describe_machine
from narrowgauge.bench.timer import Timing
from narrowgauge.strict_json import dumps, plain


@dataclass(frozen=True)
class Row:
    """One competitor. ratio: its median over the baseline's. figures: further numbers by name (unit in the name)."""

    name: str
    timing: Timing
    ratio: float
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class SuiteResult:
    """Rows of one run of a suite; `skipped`: competitor → why it is not among them.

    ceilings: roofs that were measured in the same run, by name (unit in the name), as in `narrowgauge.bench.roofline`.
    """

    suite: str
    settings: Mapping[str, Any]
    baseline: str
    rows: Sequence[Row]
    skipped: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=describe_machine)
    ceilings: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        content: dict[str, Any] = plain(self)
        for row, full in zip(content["rows"], self.rows, strict=True):
            row["timing"]["spread"] = full.timing.spread
        return content


class Result(Protocol):
    """What a suite gives back: timings, or anything else that becomes plain data."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""


def write_result(result: Result, path: str | Path) -> Path:
    """Writes the result with the time of writing as JSON, whole or not at all; returns the path."""
    content = {**result.to_dict(), "written": datetime.now(UTC).isoformat(timespec="seconds")}
    return write_json(Path(path), content)


def write_json(path: Path, value: Any) -> Path:
    """Writes strict JSON, whole or not at all, whoever else writes the same file; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(dumps(value) + "\n", encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - replaces on every system
    return path
