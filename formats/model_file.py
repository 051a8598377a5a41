"""What narrowgauge writes into the metadata of a safetensors file, docs/checkpoints.md: its names, and how it is read.

Of the file itself only the metadata and the names of its tensors are needed here; values are decoded by
`narrowgauge.formats.stored_tensor`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

ENTRY, DIGEST = "narrowgauge-model", "sha256"
"""Metadata: the JSON text, and its digest."""
VERSION = 1
SECTIONS = ("tensors", "formats", "recipes", "modules", "aliases", "sha256")
"""JSON objects that every file has."""
PARTS = ("codes", "scale", "outer", "zero_point", "second", "mean")
"""Names of the tensors of which a quantised one may consist."""


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def stored_names(entry: Mapping[str, Any]) -> list[str]:
    """The tensors of the file that a quantised one consists of."""
    names = [entry[part] for part in PARTS[:4]] + ([entry["double"][p] for p in PARTS[4:]] if entry["double"] else [])
    return [name for name in names if name is not None]


def read_description(file: Path, metadata: Mapping[str, str], present: Collection[str]) -> dict[str, Any]:
    """The JSON object of a file. metadata: that of the file at `file`; present: the names of its tensors.

    ValueError for a file that is damaged, of another kind or a later version.
    """
    if ENTRY not in metadata:
        found = ", ".join(sorted(metadata)) or "nothing"
        raise ValueError(f"path: {file} was not written by export: no {ENTRY} in its metadata, which has {found}")
    text = metadata[ENTRY]
    if text_digest(text) != metadata.get(DIGEST):
        raise ValueError(f"path: {file} is damaged: its description does not have the SHA-256 written in it")
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ValueError(f"path: {file} has a description that is no JSON: {error}") from error
    version = body.get("version") if isinstance(body, dict) else None
    if version != VERSION:
        raise ValueError(f"path: {file} has version {version!r} of {ENTRY}, this program reads {VERSION}")
    for section in SECTIONS:
        if not isinstance(body.get(section), dict):
            raise ValueError(f"path: {file} has no section {section!r} in its description; expected: {SECTIONS}")
    other = sorted({*present} ^ body["sha256"].keys())
    if other:
        raise ValueError(f"path: {file} is damaged: it and its description differ in the tensors {other[:5]}")
    return body
