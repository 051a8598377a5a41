"""A script of scenarios run in two processes that meet over gloo; each writes RANK.json: scenario → "" or its trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 300


def run_two(script: str, folder: Path, *scenarios: str) -> int:
    """How many scenarios of tests/support/SCRIPT each ran; AssertionError with the traces of those that failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(Path(__file__).with_name(script))]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(folder), *scenarios], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    failed = [
        f"process {rank}, {name}:\n{trace}" for rank in range(2) for name, trace in results[rank].items() if trace
    ]
    assert not failed, "\n".join(failed)
    return min(map(len, results))
