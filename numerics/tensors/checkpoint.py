"""`from_checkpoint`: the matrices of safetensors files, read one at a time and only as far as needed; those that
narrowgauge stored as codes as the values that these decode to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrowgauge.numerics.tensors.coded import CodedTensors, coded_tensors
from narrowgauge.numerics.tensors.named import (
    SAMPLE,
    NamedTensor,
    TensorInfo,
    TensorSource,
    sampled,
)

INDEX_SUFFIX = ".safetensors.index.json"
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""safetensors' names of the types that are measured, and torch's."""


def from_checkpoint(
    path: str | Path,
    *,
    filter_fn: Callable[[TensorInfo], bool] | None = None,
    limit: int | None = SAMPLE,
) -> TensorSource:
    """The floating-point tensors with at least two axes in a .safetensors file, in the files that a
    …safetensors.index.json names, or in a folder that holds one of the two.

    Headers are read at once, values when a tensor's turn comes, and of a matrix above `limit` elements (None:
    all) only the rows that are taken. `filter_fn(info)` replaces the rule of two axes. `left_out` of the result
    names all other tensors, and why. Quantised tensors of a file that `narrowgauge.export` wrote are decoded.

    ValueError for a path that is not there or not safetensors (pickles are not read: loading one runs code),
    for a damaged file, and where no tensor is left.
    """
    infos, left_out, homes = [], {}, {}
    for file, names in _files(Path(path)).items():
        with _open(file) as reader:
            coded = coded_tensors(file, reader)
            present = coded.entries.keys() | set(reader.keys()) - coded.parts
            for name in sorted(present) if names is None else names:
                if name not in present:
                    raise ValueError(f"path: {file} has no tensor {name!r}, which its index places there")
                info = coded.info(name) if name in coded.entries else _stored(name, reader.get_slice(name))
                reason = _reason(info, filter_fn)
                if reason:
                    left_out[name] = reason
                else:
                    infos.append(info)
                    homes[name] = file, coded
    if not infos:
        raise ValueError(f"path: {path} has no tensor to measure among {len(left_out)}; the first: {_first(left_out)}")
    return TensorSource(tuple(infos), lambda info: _load(*homes[info.name], info, limit), left_out)


def _first(left_out: dict[str, str]) -> str:
    return next((f"{name} ({reason})" for name, reason in left_out.items()), "none")


def _stored(name: str, header: Any) -> TensorInfo:
    """Of a tensor that is stored as it is."""
    dtype = header.get_dtype()
    return TensorInfo(name, "weight", tuple(header.get_shape()), DTYPES.get(dtype, dtype))


def _reason(info: TensorInfo, filter_fn: Callable[[TensorInfo], bool] | None) -> str:
    if info.dtype not in DTYPES.values():
        return f"dtype {info.dtype}, not a float"
    if 0 in info.shape:
        return "empty"
    if filter_fn is not None:
        return "" if filter_fn(info) else "left out by filter_fn"
    return "" if len(info.shape) >= 2 else f"{len(info.shape)} axis: vectors stay in high precision"


def _files(path: Path) -> dict[Path, list[str] | None]:
    """Files to read; the names to take from each, None for all."""
    if path.is_dir():
        indices, files = sorted(path.glob(f"*{INDEX_SUFFIX}")), sorted(path.glob("*.safetensors"))
        if len(indices) == 1:
            return _files(indices[0])
        model = [file for file in files if file.name == "model.safetensors"] or files
        if len(model) == 1:
            return {model[0]: None}
        found = ", ".join(file.name for file in (*indices, *files)) or "none"
        raise ValueError(f"path: {path} does not hold one model; name one of its safetensors files: {found}")
    if not path.is_file():
        raise ValueError(f"path: no file or folder at {path}")
    if path.name.endswith(INDEX_SUFFIX):
        return _indexed(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"path: got {path.name}, accepted: .safetensors, {INDEX_SUFFIX} or a folder with one (a pickle can run "
            "code when it is loaded; convert it with safetensors.torch.save_file)"
        )
    return {path: None}


def _indexed(path: Path) -> dict[Path, list[str] | None]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        by_file: dict[Path, list[str] | None] = {}
        for name, file in sorted(places.items()):
            if Path(file).name != file:
                raise ValueError(f"{file!r} is not the name of a file beside it")
            names = by_file.setdefault(path.parent / file, [])
            if names is not None:
                names.append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path: {path} is not an index of safetensors files: {error}") from error
    return by_file


def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")  # numpy has no bfloat16
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {file} cannot be read as safetensors: {error}") from error


def _load(file: Path, coded: CodedTensors, info: TensorInfo, limit: int | None) -> NamedTensor:
    is_sampled = limit is not None and math.prod(info.shape) > limit
    with _open(file) as reader:
        if info.name in coded.entries:
            rows = coded.rows(info.name, reader)
            return sampled(rows if is_sampled else rows[:, :], info, limit)
        lazy = is_sampled and len(info.shape) == 2
        return sampled(reader.get_slice(info.name) if lazy else reader.get_tensor(info.name), info, limit)
