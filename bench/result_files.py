"""Result files of suites, read back: one suite's, or the combined file of `narrowgauge.bench.gpu_suite`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from narrowgauge.bench.machine import Machine
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import Timing

COMBINED = "suites"
"""The key under which a combined file has its results."""


def read_results(path: str | Path) -> list[SuiteResult]:
    """The suites in a file; figures that JSON could not hold are left out.

    OSError where it cannot be read; ValueError where it is no result of a suite that times rows, or has two rows of one
    name.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error
    parts = content[COMBINED] if isinstance(content, dict) and COMBINED in content else [content]
    try:
        return [result_of(part) for part in parts]
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else "something else is there"
        raise ValueError(
            f"{path}: expected what `narrowgauge bench SUITE --out` or `narrowgauge.bench.gpu_suite` writes, rows with "
            f"their timings; {what}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def result_of(content: Mapping[str, Any]) -> SuiteResult:
    """What `SuiteResult.to_dict` gave. KeyError or TypeError for other data, ValueError for two rows of one name."""
    rows = [_row(row) for row in content["rows"]]
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{content['suite']}: two rows are called {', '.join(twice)}")
    # A file that is older than a field of the machine does not know it.
    known = {field.name: content["machine"].get(field.name) for field in fields(Machine)}
    return SuiteResult(
        content["suite"],
        content["settings"],
        content["baseline"],
        rows,
        content["skipped"],
        Machine(**known),
        _numbers(content.get("ceilings", {})),
    )


def _row(content: Mapping[str, Any]) -> Row:
    timing = Timing(**{field.name: content["timing"][field.name] for field in fields(Timing)})
    return Row(content["name"], timing, content["ratio"], _numbers(content["figures"]), content["note"])


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
