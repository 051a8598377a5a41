"""The file itself: one safetensors file, a JSON text in its metadata, and digests of both.

The text and its digest stand in the metadata (`narrowgauge.formats.model_file`). The text has the digest of every
tensor, which is that of `dtype shape` and its bytes; so the text alone can be trusted before a tensor is read,
and a damaged tensor is named. Reading runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from narrowgauge.atomic_files import replacing
from narrowgauge.formats.model_file import DIGEST, ENTRY, VERSION, read_description, text_digest
from narrowgauge.nn.files.arguments import checked_path

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""What is stored, by safetensors' names."""


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")


def dtype_called(name: str) -> torch.dtype:
    """The dtype of a file; ValueError for names that no file has."""
    found = {dtype_name(dtype): dtype for dtype in DTYPES.values()}
    if name not in found:
        raise ValueError(f"dtype: got {name!r}, accepted: {', '.join(found)}")
    return found[name]


def digest(tensor: Tensor) -> str:
    """SHA-256 of the dtype, the shape and the bytes of a contiguous CPU tensor."""
    head = f"{dtype_name(tensor.dtype)} {list(tensor.shape)}\n"
    total = hashlib.sha256(head.encode())
    total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write(path: Path, body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes the sections of `body` but the digests, and the tensors. TypeError for dtypes that files do not have,
    OSError where the file cannot be written; a file at `path` is replaced in the last moment."""
    stored = {name: _storable(name, tensor) for name, tensor in tensors.items()}
    head = {"format": ENTRY, "version": VERSION}
    text = json.dumps({**head, **body, "sha256": {n: digest(t) for n, t in stored.items()}}, allow_nan=False)
    metadata = {"format": "pt", ENTRY: text, DIGEST: text_digest(text)}
    try:
        with replacing(path) as partial:
            save_file(stored, partial, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"path: {path} cannot be written: {error}") from error


def _storable(name: str, tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, alone in its memory."""
    if tensor.dtype not in DTYPES.values() or tensor.layout != torch.strided or tensor.is_meta:
        accepted = ", ".join(map(dtype_name, DTYPES.values()))
        raise TypeError(
            f"model: {name} is a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}; accepted: dense tensors "
            f"with values, of {accepted}"
        )
    plain = tensor.detach().to("cpu").contiguous()
    owns = plain.untyped_storage().nbytes() == plain.nbytes
    return plain if owns and plain.data_ptr() != tensor.data_ptr() else plain.clone()


@dataclass(frozen=True)
class Contents:
    """A file that is as it was written. body: the JSON. tensors: everything stored, on the CPU."""

    path: Path
    body: dict[str, Any]
    tensors: dict[str, Tensor]


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Path, dict[str, Any], Any]]:
    """(path, JSON, safetensors reader) of a file whose JSON is as it was written.

    FileNotFoundError where there is none; ValueError for a folder, and for one that is damaged, of another kind or a
    later version; TypeError for what is no path.
    """
    file = checked_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"path: no file at {file}")
    try:
        reader: Any = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"path: {file} is no safetensors file, or damaged: {error}") from error
    with reader:
        yield file, read_description(file, reader.metadata() or {}, reader.keys()), reader


def read(path: str | Path) -> Contents:
    """Everything in a file. Raises what `opened` does, and ValueError that names a tensor which is damaged."""
    with opened(path) as (file, body, reader):
        tensors = {}
        for name, expected in body["sha256"].items():
            tensor = reader.get_tensor(name)
            if digest(tensor) != expected:
                raise ValueError(f"path: {file} is damaged: {name} does not have the SHA-256 written in the file")
            tensors[name] = tensor
    return Contents(file, body, tensors)


@contextmanager
def of_the_file(path: Path) -> Iterator[None]:
    """Errors name the file; a description that is none of ours is a ValueError, too."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"path: {path}: its description is malformed: {type(error).__name__}: {error}") from error
