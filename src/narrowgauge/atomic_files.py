"""Files that are there as a whole or not at all: written under another name, brought to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_name(path: Path) -> Path:
    """Where `path` is written before it gets its name: `.NAME.partial` beside it."""
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Returns once the file, or the list of names of the folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write a file to; it replaces `path` when the block ends, and is gone if it raises.

    At every moment `path` is what it was before or the new file, whole. Folders above it are made. Of a process that is
    killed the partial file stays, which the next one overwrites.
    """
    partial = partial_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
