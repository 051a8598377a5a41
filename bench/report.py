"""What a suite gives back: rows of timings, and the file that keeps them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    """Rows of one run of a suite; `skipped`: competitor → why it is not among them."""

    suite: str
    settings: Mapping[str, Any]
    baseline: str
    rows: Sequence[Row]
    skipped: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=describe_machine)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become None."""
        content: dict[str, Any] = plain(self)
        for row, full in zip(content["rows"], self.rows, strict=True):
            row["timing"]["spread"] = full.timing.spread
        return content


def write_result(result: SuiteResult, path: str | Path) -> Path:
    """Writes the result with the time of writing as JSON, whole or not at all; returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {**result.to_dict(), "written": datetime.now(UTC).isoformat(timespec="seconds")}
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(dumps(content) + "\n", encoding="utf-8")
    os.replace(partial, target)  # noqa: PTH105 - replaces on every system
    return target
