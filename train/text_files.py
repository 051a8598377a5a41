"""Which files a byte-level corpus is made of, and which of them are held out for validation."""

import hashlib
import os
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

SEPARATOR = 0  # stands between two files; text contains no zero byte, so it is unambiguous
_SNIFFED_BYTES = 8192
# Not the library itself (installed packages, tests, caches, an editor, demos), or tables instead of text.
_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "idlelib", "lib2to3"}
    | {"turtledemo", "ensurepip", "pydoc_data", "encodings"}
)


class Splittable(Protocol):
    """What can be split by a hash: something with a name and a size in bytes."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


SplittableT = TypeVar("SplittableT", bound=Splittable)


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file: ``name`` is its path below the corpus's root with ``/``, ``size`` its length in bytes."""

    name: str
    path: Path
    size: int


def _walk(root: Path, is_skipped: Callable[[str], bool]) -> list[TextFile]:
    """Non-empty files by relative path; a skipped name is a file left out or a folder not entered."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not is_skipped(name)]
        for path in (Path(folder, name) for name in names if not is_skipped(name)):
            if path.is_file() and path.stat().st_size:
                found.append(TextFile(path.relative_to(root).as_posix(), path, path.stat().st_size))
    return sorted(found, key=lambda file: file.name)


def standard_library_files() -> list[TextFile]:
    """The standard library's ``.py`` files by relative path (none where the library is an archive)."""
    files = _walk(Path(sysconfig.get_paths()["stdlib"]), lambda name: name in _SKIPPED_FOLDERS)
    return [file for file in files if file.name.endswith(".py")]


def text_files(root: Path) -> list[TextFile]:
    """Every non-empty text file below a folder, hidden files and folders left out, by relative path."""
    return [file for file in _walk(root, lambda name: name.startswith(".")) if is_text(file.path)]


def library_test_files() -> list[TextFile]:
    """The standard library's own tests, ``.py`` files by relative path (none where they are not installed)."""
    folder = Path(sysconfig.get_paths()["stdlib"], "test")
    return [file for file in _walk(folder, lambda name: name == "__pycache__") if file.name.endswith(".py")]


def first_bytes(files: Sequence[SplittableT], max_bytes: int) -> list[SplittableT]:
    """Whole files, in the given order, that fit into ``max_bytes``; one that does not is passed over."""
    kept, total = [], 0
    for file in files:
        if total + file.size <= max_bytes:
            kept.append(file)
            total += file.size
    return kept


def is_text(path: Path) -> bool:
    """Whether the first 8 KiB hold no zero byte (the test that git and grep use)."""
    with path.open("rb") as file:
        return b"\0" not in file.read(_SNIFFED_BYTES)


def split_by_hash(files: Sequence[SplittableT], fraction: float) -> tuple[list[SplittableT], list[SplittableT]]:
    """Files for training and for validation, each in the given order; at least two files are needed.

    In the order of the SHA-256 of their names, files are taken for validation while it stays within
    ``fraction`` of all bytes; when no file is that small, the smallest one is. No file is in both parts, none
    is in neither.
    """
    if len(files) < 2:
        raise ValueError(f"files: expected at least two to split, got {len(files)}")
    budget = fraction * sum(file.size for file in files)
    held_out: set[str] = set()
    for file in sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest()):
        if file.size <= budget:
            held_out.add(file.name)
            budget -= file.size
    if not held_out:
        held_out.add(min(files, key=lambda file: (file.size, file.name)).name)
    train = [file for file in files if file.name not in held_out]
    return train, [file for file in files if file.name in held_out]


def read_joined(files: Sequence[TextFile]) -> NDArray[np.uint8]:
    """The bytes of all files, one after the other, with a zero byte between two."""
    return np.frombuffer(bytes([SEPARATOR]).join(file.path.read_bytes() for file in files), dtype=np.uint8)
