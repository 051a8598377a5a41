"""A lock between processes that the system takes back when its holder dies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

POLL_SECONDS = 0.1

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def exclusive(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Gives whether this process holds the lock `path` (a file, made where it is missing, and left behind).

    wait: until it is free; otherwise False is given at once where another process, or another `exclusive` of this one,
    holds it. It is free again at the end of the block, or when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:  # closing it frees the lock
        held = _try_lock(file)
        while wait and not held:
            time.sleep(POLL_SECONDS)
            held = _try_lock(file)
        yield held
