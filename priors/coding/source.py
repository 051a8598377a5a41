"""Where the tensors of a model come from: a safetensors file, a folder of such files, or a mapping in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

Model: TypeAlias = str | Path | Mapping[str, Tensor]
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Source:
    """The tensors by name; `readers` has an open file (or a mapping) for each. metadata: of a single file."""

    readers: dict[str, Any]
    metadata: dict[str, str]

    def tensor(self, name: str) -> Tensor:
        """One tensor, read now."""
        reader = self.readers[name]
        found: Tensor = reader[name] if isinstance(reader, Mapping) else reader.get_tensor(name)
        return found


@contextmanager
def opened(model: Model) -> Iterator[Source]:
    """The tensors of `model`: a .safetensors file; a folder of such files, as checkpoints of transformers are (where
    it has a model.safetensors.index.json, of the files that this names); name → tensor.

    FileNotFoundError where there is nothing; ValueError for files that are damaged, or that share a name; TypeError for
    what is no model.
    """
    if isinstance(model, Mapping):
        for name, tensor in model.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise TypeError(f"model: expected name → tensor, got {name!r:.80} → {type(tensor).__name__}")
        yield Source(dict.fromkeys(model, model), {})
        return
    if not isinstance(model, str | Path):
        raise TypeError(f"model: expected a path or a mapping of tensors, got {type(model).__name__}")
    path = Path(model).absolute()
    files = _files(path)
    with ExitStack() as stack:
        readers: dict[str, Any] = {}
        metadata: dict[str, str] = {}
        for file in files:
            try:
                reader: Any = stack.enter_context(safe_open(file, framework="pt"))
            except SafetensorError as error:
                raise ValueError(f"model: {file} is no safetensors file, or damaged: {error}") from error
            names = list(reader.keys())
            if twice := sorted(readers.keys() & set(names)):
                raise ValueError(f"model: {file} has {twice[0]!r}, which another file of the folder has, too")
            readers |= dict.fromkeys(names, reader)
            metadata = dict(reader.metadata() or {})
        yield Source(readers, metadata if len(files) == 1 else {"format": "pt"})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"model: no file at {path}")
        return [path]
    index = path / INDEX
    if index.is_file():
        try:
            listed = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [path / name for name in listed]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"model: {index} is no index of a checkpoint: {error!r}") from error
    else:
        files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"model: no .safetensors file in {path}")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"model: {index} names {file.name}, which is not there")
    return files
