"""The table of all builds, as it is kept beside the results, and what has changed since: a regression shows.

    {"triton": VERSION, "builds": {TARGET: {CASE: {op, instructions, registers, …}}}}

The same Triton builds the same code everywhere, so every figure is compared but the seconds, which are not kept. Of
another Triton's table only promises are: that the case is there, its instructions, and no new problem.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from narrowgauge.bench.compile_build import Build
from narrowgauge.bench.report import write_json

FIGURES = ("instructions", "registers", "spills", "shared_bytes", "load_bytes", "store_bytes", "tensor_copies")
PROMISES = ("instructions",)
Table = dict[str, Any]


def _figures(build: Build) -> dict[str, Any]:
    content = asdict(build)
    return {"op": build.op, **{name: content[name] for name in (*FIGURES, "problems")}}


def write_table(path: Path, builds: Sequence[Build], version: str) -> None:
    """Writes the builds, made by Triton `version`, by target and case."""
    by_target: dict[str, dict[str, Any]] = {}
    for build in builds:
        by_target.setdefault(build.target, {})[build.case] = _figures(build)
    write_json(path, {"triton": version, "builds": by_target})


def read_table(path: Path) -> Table:
    """A table; ValueError for a file that is none, OSError where it cannot be read."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(cases, dict) for cases in table["builds"].values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no table of builds") from error
    return dict(table)


def differences(builds: Sequence[Build], table: Table, version: str) -> list[str]:
    """In words, what of the builds, made by Triton `version`, is not as the table has it."""
    names = FIGURES if table["triton"] == version else PROMISES
    found = []
    for build in builds:
        place = f"{build.target} {build.case}"
        kept = table["builds"].get(build.target, {}).get(build.case)
        if kept is None:
            found.append(f"{place}: is not in the table")
            continue
        now = json.loads(json.dumps(_figures(build)))
        found += [f"{place}: {name} was {kept[name]}, is {now[name]}" for name in names if kept[name] != now[name]]
        found += [f"{place}: {problem}" for problem in now["problems"] if problem not in kept["problems"]]
    return found
