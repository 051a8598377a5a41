"""Nested state as JSON plus named tensors, and back, without running code.

Containers and tensors become JSON objects with one tag (``{"tensor": name}``, ``{"tuple": […]}``, …);
``None``, booleans, integers, finite floats and strings stand for themselves. Values come back with their
type, tensors with their dtype and shape (0-dimensional and empty ones too), on the CPU.
"""

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# What safetensors stores under its own name; any other dtype is stored as its bytes.
_STORED_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)


class _Flattener:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()
        self._sources: list[Tensor] = []  # kept alive, so that no address is used twice

    def node(self, value: Any, path: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray) and value.dtype != object:
            return {"ndarray": self._tensor(torch.from_numpy(value.copy()), path)}
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if isinstance(value, list) or (isinstance(value, tuple) and not hasattr(value, "_fields")):
            nodes = [self.node(item, _join(path, index)) for index, item in enumerate(value)]
            return {"list" if isinstance(value, list) else "tuple": nodes}
        if isinstance(value, bytes):
            return {"bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        raise TypeError(
            f"state: {path or 'root'} is a {type(value).__name__}; expected None, bool, int, float, str,"
            " bytes, torch.dtype, torch.Tensor, numpy array, dict, list or tuple"
        )

    def _mapping(self, value: Mapping[Any, Any], path: str) -> Any:
        if all(type(key) is str for key in value):
            return {"dict": {key: self.node(item, _join(path, key)) for key, item in value.items()}}
        pairs = [[self.node(key, path), self.node(item, _join(path, key))] for key, item in value.items()]
        return {"items": pairs}

    def _tensor(self, tensor: Tensor, path: str) -> Any:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise TypeError(f"state: {path} is a {tensor.layout} tensor on {tensor.device}; expected a dense tensor")
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in self._names:  # tied: one tensor under two names is written once
            name = self._names[key]
        else:
            name = self._names[key] = self._free_name(path or "tensor")
            self._sources.append(tensor)
            self.tensors[name] = self._storable(tensor)
        if tensor.dtype in _STORED_DTYPES:
            return {"tensor": name}
        return {"raw": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}

    def _storable(self, tensor: Tensor) -> Tensor:
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        storage = plain.untyped_storage()
        # safetensors takes only tensors that own their storage and all of it.
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in self._storages:
            plain = plain.clone()
        self._storages.add(plain.untyped_storage().data_ptr())
        return plain if plain.dtype in _STORED_DTYPES else plain.reshape(-1).view(torch.uint8)

    def _free_name(self, path: str) -> str:
        name, count = path, 1
        while name in self.tensors:
            count += 1
            name = f"{path}#{count}"
        return name


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def flatten(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """``value`` as (JSON, tensors by name); a tensor's name is its path, joined with dots.

    Each tensor is contiguous and owns its storage, but may be the very tensor in ``value``, not a copy.
    Raises ``TypeError`` that names the path of a value of any other type.
    """
    flattener = _Flattener()
    return flattener.node(value, ""), flattener.tensors


def unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of :func:`flatten`; tied tensors come back as one. ``ValueError`` for a malformed ``node``."""
    if not isinstance(node, dict):
        return node
    if not node or next(iter(node)) not in _READERS:
        raise ValueError(f"state: unknown node {node!r:.80}; expected one of {', '.join(_READERS)}")
    tag = next(iter(node))
    return _READERS[tag](node, tensors)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"state: unknown dtype {name!r}")
    return dtype


def _named(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"state: tensor {name!r} is missing")
    return tensors[name]


_READERS: dict[str, Callable[[dict[str, Any], Mapping[str, Tensor]], Any]] = {
    "float": lambda node, _: float(node["float"]),
    "bytes": lambda node, _: base64.b64decode(node["bytes"]),
    "dtype": lambda node, _: _dtype(node["dtype"]),
    "tensor": lambda node, tensors: _named(tensors, node["tensor"]),
    "raw": lambda node, tensors: _named(tensors, node["raw"]).view(_dtype(node["dtype"])).reshape(node["shape"]),
    "ndarray": lambda node, tensors: unflatten(node["ndarray"], tensors).numpy(),
    "list": lambda node, tensors: [unflatten(item, tensors) for item in node["list"]],
    "tuple": lambda node, tensors: tuple(unflatten(item, tensors) for item in node["tuple"]),
    "dict": lambda node, tensors: {key: unflatten(item, tensors) for key, item in node["dict"].items()},
    "items": lambda node, tensors: {unflatten(key, tensors): unflatten(item, tensors) for key, item in node["items"]},
}
