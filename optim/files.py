"""Optimizers in single safetensors files: states, options and what they belong to; reading one runs no code.

Tensors are named by parameter and entry of its state, `layers.0.weight.exp_avg`; where the optimizer was not given
names, a parameter's is its place, `0.exp_avg`. Two entries of the metadata say the rest: `narrowgauge-optimizer` is
JSON,

    version, class, groups (params: names in order; options), states (name of a parameter → entries of its state)

and `sha256` is the digest of that text and of all tensors. Options that are tensors (an `lr`) are among the tensors, as
`param_groups.0.lr`. A state is that of the whole parameter; of one that was cut into shards in the form of
optim/by_rows.py.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from narrowgauge.atomic_files import replacing
from narrowgauge.optim.local import cut_axis, is_dtensor
from narrowgauge.optim.saved import convert_group

if TYPE_CHECKING:
    from narrowgauge.optim.base import CompressedOptimizer

ENTRY, DIGEST = "narrowgauge-optimizer", "sha256"
VERSION = 1


def save_optimizer(optimizer: CompressedOptimizer, path: str | Path) -> None:
    """Writes states and options of an optimizer to the file `path`, which is replaced if there is one.

    The file gets its name once it is whole and on disk. Where parameters are cut into shards (FSDP2), every process has
    to call this: the states are gathered, one tensor at a time, and the first process writes. Of replicas (DDP) one
    should call it. TypeError for other optimizers and for options that are no plain data; ValueError for parameters of
    several device meshes; OSError, in every process, where the file cannot be written.
    """
    mesh = _mesh(optimizer)
    writes = mesh is None or not any(mesh.get_coordinate() or ())
    saved, names = optimizer.state_dict(), _names(optimizer)
    tensors: dict[str, Tensor] = {}
    for index, state in saved["state"].items():
        for key, value in state.items():
            whole = value.full_tensor() if is_dtensor(value) else value
            if writes:
                tensors[f"{names[index]}.{key}"] = whole.detach().to("cpu").contiguous()
    groups = []
    for position, group in enumerate(saved["param_groups"]):
        options = {
            key: _as_json(value, f"param_groups.{position}.{key}", tensors)
            for key, value in group.items()
            if key not in ("params", "param_names")
        }
        groups.append({"params": [names[index] for index in group["params"]], "options": options})
    states = {names[index]: sorted(state) for index, state in saved["state"].items()}
    body = {"version": VERSION, "class": type(optimizer).__name__, "groups": groups, "states": states}
    error = _try_to_write(Path(path).absolute(), json.dumps(body, allow_nan=False), tensors) if writes else None
    _agree(error, mesh)


def load_optimizer(optimizer: CompressedOptimizer, path: str | Path, convert: bool = False) -> None:
    """Loads what `save_optimizer` wrote into an optimizer of the same class and parameters, cut into shards or not.

    Options become the saved ones, `state` and `master` among them. convert: these two stay those of the optimizer, and
    what the saved moments read back as is encoded by its codecs, at the cost of one store of theirs.

    ValueError, before anything changes, for a file that is damaged, of another kind, version or optimizer, and for
    other parameters; FileNotFoundError where there is none.
    """
    file = Path(path).absolute()
    body, tensors = _read(file)
    if body["class"] != type(optimizer).__name__:
        raise ValueError(f"path: {file} has the states of {body['class']}, this is {type(optimizer).__name__}")
    _check_names(optimizer, body, file)
    names = _names(optimizer)
    groups, index = [], 0
    for saved, group in zip(body["groups"], optimizer.param_groups, strict=True):
        options = {key: _from_json(value, tensors) for key, value in saved["options"].items()}
        if "param_names" in group:
            options["param_names"] = saved["params"]
        groups.append({**options, "params": list(range(index, index + len(saved["params"])))})
        index += len(saved["params"])
    states = {
        index: {key: tensors[f"{name}.{key}"] for key in body["states"][name]}
        for index, name in enumerate(names)
        if name in body["states"]
    }
    kept = [{key: group[key] for key in ("state", "master")} for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    if convert:
        for group, options in zip(optimizer.param_groups, kept, strict=True):
            convert_group(optimizer, group, options)


def _names(optimizer: CompressedOptimizer) -> list[str]:
    """Of all parameters, in order."""
    names: list[str] = []
    for group in optimizer.param_groups:
        places = [str(len(names) + place) for place in range(len(group["params"]))]
        names += group.get("param_names", places)
    return names


def _check_names(optimizer: CompressedOptimizer, body: Mapping[str, Any], file: Path) -> None:
    ours, places = _names(optimizer), iter(_names(optimizer))
    own = [[next(places) for _ in group["params"]] for group in optimizer.param_groups]
    theirs = [group["params"] for group in body["groups"]]
    if own == theirs:
        return
    saved = [name for group in theirs for name in group]
    differs = next((pair for pair in zip(saved, ours, strict=False) if pair[0] != pair[1]), None)
    detail = f"first difference: {differs[0]!r} in the file, {differs[1]!r} here" if differs else "the names agree"
    raise ValueError(
        f"path: {file} has groups of {[len(group) for group in theirs]} parameters, this optimizer of "
        f"{[len(group) for group in own]}; {detail}; names and their order have to be the same"
    )


def _mesh(optimizer: CompressedOptimizer) -> Any:
    """The device mesh over which parameters are cut, None where none is."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    meshes = [p.device_mesh for p in params if is_dtensor(p) and cut_axis(p) is not None]
    if any(mesh != meshes[0] for mesh in meshes):
        raise ValueError("optimizer: its parameters are cut over several meshes; use torch.distributed.checkpoint")
    return meshes[0] if meshes else None


def _agree(error: Exception | None, mesh: Any) -> None:
    """Raises in all processes of a mesh what one of them met, after all have come here."""
    failed = error is not None
    if mesh is not None:
        import torch.distributed as dist

        flag = torch.tensor(float(failed), device=mesh.device_type)
        for axis in range(mesh.ndim):
            dist.all_reduce(flag, group=mesh.get_group(axis))
        failed = bool(flag > 0)
    if error is not None:
        raise error
    if failed:
        raise OSError("path: the process that writes the file could not; its message says why")


def _try_to_write(path: Path, text: str, tensors: dict[str, Tensor]) -> Exception | None:
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={ENTRY: text, DIGEST: _digest(text, tensors)})
    except (OSError, SafetensorError) as error:
        return error if isinstance(error, OSError) else OSError(f"path: {path} cannot be written: {error}")
    return None


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata's JSON and all tensors of a file that is as it was written."""
    if not path.is_file():
        raise FileNotFoundError(f"path: no file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if ENTRY not in metadata:
                raise ValueError(f"path: {path} is not a file of save_optimizer (no {ENTRY} in its metadata)")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: {path} is no safetensors file, or damaged: {error}") from error
    text = metadata[ENTRY]
    if metadata.get(DIGEST) != _digest(text, tensors):
        raise ValueError(f"path: {path} is damaged: its content does not have the SHA-256 written in it")
    body = json.loads(text)
    if body["version"] != VERSION:
        raise ValueError(f"path: {path} has version {body['version']!r}, this program reads {VERSION}")
    return body, tensors


def _as_json(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """An option as JSON has it; a tensor goes into `tensors` as `name`. TypeError for what is no plain data."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True)
        return {"tensor": name}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_as_json(part, f"{name}.{at}", tensors) for at, part in enumerate(value)]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _as_json(part, f"{name}.{key}", tensors) for key, part in value.items()}}
    raise TypeError(f"{name}: got {type(value).__name__}; accepted are numbers, text, tensors, tuples, lists and dicts")


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _from_json(part, tensors) for key, part in content.items()}
    parts = [_from_json(part, tensors) for part in content]
    return tuple(parts) if kind == "tuple" else parts
