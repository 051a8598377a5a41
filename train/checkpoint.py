"""Checkpoints: a folder of safetensors files and a ``state.json``; a killed writer leaves a whole one.

``state.json`` holds everything that is not a tensor and the SHA-256 of every other file and of its own. A
section ``s`` (``model``, ``optimizer``, ``methods``, ``loop``) keeps its tensors in ``s.safetensors``, if it
has any.

Writing PATH: everything is written and synced to disk in ``.NAME.partial`` beside it; an older checkpoint at
PATH is renamed to ``NAME.previous`` (and what had that name to ``NAME.previous-2``, and so on); the new one gets its
name; those that are not to be kept are removed. So at every moment PATH, or else ``NAME.previous``, is a complete
checkpoint, and reading PATH finds it. Reading runs no code (no pickle).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from narrowgauge.atomic_files import partial_name, sync
from narrowgauge.train.checkpoint_names import STATE_FILE, age_of, generations, older
from narrowgauge.train.tree import flatten, unflatten

FORMAT = "narrowgauge-checkpoint"
VERSION = 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def save_checkpoint(path: str | Path, sections: Mapping[str, Any], *, keep: int = 1) -> None:
    """Write ``sections`` (name → nested state, see :mod:`narrowgauge.train.tree`) to the folder ``path``.

    ``keep`` checkpoints stay: this one, and those that were written to ``path`` before. Replaces a checkpoint, never
    anything else: ``ValueError`` when ``path`` is another kind of file or folder, and for ``keep`` below 1.
    """
    if keep < 1:
        raise ValueError(f"keep: expected at least 1, got {keep}")
    path = Path(path).absolute()
    if path.exists() and not (path / STATE_FILE).is_file():
        raise ValueError(f"path: {path} exists and is not a checkpoint (no {STATE_FILE} in it); give another path")
    partial = partial_name(path)
    if partial.exists():
        shutil.rmtree(partial)  # left by a writer that was killed
    partial.mkdir(parents=True)
    _write(partial, sections)
    if path.exists():
        _remove_from(path, keep)  # left by a writer that was killed
        _make_room(path)
    partial.rename(path)
    sync(path.parent)
    _remove_from(path, keep)


def _remove_from(path: Path, age: int) -> None:
    for folder in generations(path):
        if age_of(path, folder) >= age:
            shutil.rmtree(folder)


def _make_room(path: Path) -> None:
    """Every older checkpoint gets the next older name, up to the first name that is free."""
    age = 1
    while older(path, age).exists():
        age += 1
    for young in range(age - 1, -1, -1):
        older(path, young).rename(older(path, young + 1))


def _write(folder: Path, sections: Mapping[str, Any]) -> None:
    nodes, files = {}, {}
    for name, value in sections.items():
        nodes[name], tensors = flatten(value)
        if tensors:
            file = folder / f"{name}.safetensors"
            save_file(tensors, file, metadata={"format": "pt"})
            sync(file)
            files[file.name] = _sha256(file)
    body = {"format": FORMAT, "version": VERSION, "files": files, "sections": nodes}
    state = folder / STATE_FILE
    state.write_text(json.dumps({**body, "sha256": _digest(body)}, indent=1, allow_nan=False) + "\n")
    sync(state)
    sync(folder)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The sections of the checkpoint at ``path``, tensors on the CPU.

    Raises ``ValueError`` when there is none, when any byte of it is not what was written, or when it has
    another format or version; the error then names the newest older one beside it that is whole.
    """
    path = Path(path).absolute()
    found = generations(path)
    folder = path if path in found or not found else found[0]
    try:
        return _load(folder)
    except ValueError as error:
        for candidate in found[found.index(folder) + 1 :] if folder in found else ():
            try:
                step = _load(candidate)["loop"]["step"]
            except (ValueError, KeyError, TypeError):
                continue
            raise ValueError(f"{error}; the checkpoint before it, of step {step}, is whole: {candidate}") from error
        raise


def _load(folder: Path) -> dict[str, Any]:
    body = _read_state(folder)
    sections = {}
    for name, node in body["sections"].items():
        file = folder / f"{name}.safetensors"
        tensors = _read_tensors(file, body["files"][file.name]) if file.name in body["files"] else {}
        sections[name] = unflatten(node, tensors)
    return sections


def _read_state(folder: Path) -> dict[str, Any]:
    file = folder / STATE_FILE
    if not file.is_file():
        raise ValueError(f"path: no checkpoint at {folder} ({STATE_FILE} is missing)")
    try:
        body = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"path: {file} is damaged, it cannot be read as JSON: {error}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ValueError(f"path: {file} is not a {FORMAT}")
    if body.get("version") != VERSION:
        raise ValueError(f"path: {file} has version {body.get('version')!r}, this program reads {VERSION}")
    if body.pop("sha256", None) != _digest(body):
        raise ValueError(f"path: {file} is damaged: its content does not have the SHA-256 written in it")
    return body


def _read_tensors(file: Path, sha256: str) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"path: {file} is missing; the checkpoint is incomplete")
    actual = _sha256(file)
    if actual != sha256:
        raise ValueError(f"path: {file} is damaged: its SHA-256 is {actual}, {STATE_FILE} has {sha256}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"path: {file} cannot be read as safetensors: {error}") from error
