"""Python programs in a process of their own, in which nothing of the test is known."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_program(program: str, *arguments: object, status: int = 0) -> str:
    """What `program` prints on stdout. AssertionError, with its stderr, unless it ends with `status`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout
