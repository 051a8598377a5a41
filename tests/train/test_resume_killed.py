"""Kill -9 at a random moment, several times: the run that is left equals the unbroken one bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "killed_chain.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize(("kills", "steps", "seed"), [(2, 8, 0), pytest.param(10, 30, 1, marks=pytest.mark.slow)])
def test_killed_again_and_again(tmp_path: Path, kills: int, steps: int, seed: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), *map(str, (kills, steps, seed))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["killed"]) == kills
    assert all(step > 0 for step in results["killed"])
    assert results["last"] > 0
    assert results["different"] == []
