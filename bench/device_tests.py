"""A pytest plugin that runs the tests which use the device, and keeps each result at once.

    pytest -p narrowgauge.bench.device_tests --device cuda --keep-results results.jsonl tests/kernels

Kept are the tests that take the fixture `device` or are marked `gpu`; the others say nothing about a GPU. Every
finished test is a line of JSON, so that a run that is ended has told what it has found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

OPTION = "--keep-results"
MESSAGE_CHARACTERS = 2000
FIRST = "test_conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flag."""
    parser.addoption(OPTION, metavar="FILE", help="append a line of JSON for each finished test to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """The process that hears of every test writes; those of pytest-xdist that run them do not."""
    path = config.getoption(OPTION)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Keeper(Path(path)), "narrowgauge-keeper")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests that use the device, those that hold operators to their references first."""
    config.hook.pytest_deselected(items=[item for item in items if not _uses_device(item)])
    items[:] = sorted(filter(_uses_device, items), key=lambda item: FIRST not in item.nodeid)


def _uses_device(item: pytest.Item) -> bool:
    return "device" in getattr(item, "fixturenames", ()) or item.get_closest_marker("gpu") is not None


class _Keeper:
    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test counts by its call, or by what went wrong before and after."""
        if report.when == "call" or report.outcome != "passed":
            line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
            if report.outcome != "passed":
                line["message"] = str(report.longrepr)[-MESSAGE_CHARACTERS:]
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def summarize(path: Path) -> dict[str, Any]:
    """Counts by outcome, the tests that failed with the end of their message, and the slowest ten; empty counts where
    there is no such file."""
    lines = list(_lines(path))
    counts = {name: sum(line["outcome"] == name for line in lines) for name in ("passed", "failed", "skipped")}
    slowest = sorted(lines, key=lambda line: -line["seconds"])[:10]
    return {
        "counts": counts,
        "failed": [line for line in lines if line["outcome"] == "failed"],
        "slowest": [{"test": line["test"], "seconds": line["seconds"]} for line in slowest],
    }


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The complete lines: the last one of a process that was ended may be cut."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    complete: Sequence[str] = text[: text.rfind("\n") + 1].splitlines()
    yield from map(json.loads, complete)
