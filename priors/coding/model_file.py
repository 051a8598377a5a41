"""Compressed models: a file of entropy-coded tensors (docs/compression.md), of which any can be read by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats.model_file import ENTRY
from narrowgauge.kernels.tensor import QuantizedTensor
from narrowgauge.priors.coding.coder import Coder, coder
from narrowgauge.priors.coding.container import Container, Writer, writing
from narrowgauge.priors.coding.model_report import CompressionReport, report_of
from narrowgauge.priors.coding.record import Coded
from narrowgauge.priors.coding.source import Model, opened
from narrowgauge.priors.coding.weights import Part, Plan, dtype_called, dtype_name, from_parts, to_parts

Show = Callable[[int, int, str], None]
"""show(done, total, what is next)."""


def compress(
    model: Model,
    path: str | Path,
    *,
    step_bits: int | None = None,
    scheme: str | None = None,
    coding: Coder | str = "huffman",
    order: int | None = None,
    everything: bool = False,
    show: Show = lambda done, total, at: None,
) -> CompressionReport:
    """Writes the tensors of `model` to one file; what became of each.

    model: a .safetensors file, a folder of such files, or name → tensor. step_bits: n of the step 2^-n to which weights
    are rounded; scheme: the scheme by which they are quantised instead, such as "rf8/row"; with neither, floats are
    kept as they are and integers are coded. coding: exp-golomb, huffman, rans, or a coder; order: k of exp-golomb, the
    best of each tensor if None. everything: also tensors of fewer than two axes (norms, biases), which are otherwise
    kept as they are. The file is there as a whole at the end, or not at all.

    ValueError, naming the tensor, for values that cannot be quantised so; FileNotFoundError, ValueError and TypeError
    for models that cannot be read.
    """
    plan = Plan(_coder(coding, order), step_bits, scheme, everything)
    with opened(model) as source:
        if ENTRY in source.metadata and not (step_bits is None and scheme is None):
            raise ValueError(
                f"model: {model} holds codes and scales that `export` wrote, not weights; accepted: neither "
                "step_bits nor scheme (--lossless), which codes its integers and changes nothing"
            )
        names = list(source.readers)
        with writing(path) as writer:
            entries = {}
            for done, name in enumerate(names):
                show(done, len(names), name)
                try:
                    entries[name] = _written(writer, source.tensor(name), plan)
                except (ValueError, TypeError) as error:
                    raise type(error)(f"{name}: {error}") from error
            writer.finish({"metadata": source.metadata, "tensors": entries})
    return describe_compressed(path)


def _coder(coding: Coder | str, order: int | None) -> Coder:
    if not isinstance(coding, str):
        if order is not None:
            raise ValueError(f"order: got {order} and a coder, which has an order of its own")
        return coding
    if order is None:
        return coder(coding)
    if coding != "exp-golomb":
        raise ValueError(f"order: got {order}, accepted with exp-golomb alone, not with {coding}")
    return coder(coding, order=order)


def _written(writer: Writer, tensor: Tensor, plan: Plan) -> dict[str, Any]:
    """The entry of a tensor whose parts are in the file now."""
    entry, parts = to_parts(tensor, plan)
    entry["parts"] = {}
    for name, part in parts.items():
        if isinstance(part, Coded):
            entry["parts"][name] = {"code": part.to_dict(), **writer.add(part.payload)}
        else:
            kept = {"shape": list(part.shape), "dtype": dtype_name(part.dtype)}
            data = part.contiguous().reshape(-1).view(torch.uint8).numpy()
            entry["parts"][name] = {"kept": kept, **writer.add(data)}
    return entry


@contextmanager
def _of(container: Container, name: str) -> Iterator[None]:
    """Errors name the file and the tensor; a description that is none of ours is a ValueError, too."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        what = str(error) if isinstance(error, ValueError) else f"its entry is malformed: {error!r}"
        raise ValueError(f"path: {container.path}: {name}: {what}") from error


class CompressedModel:
    """An open file of `compress`, a context manager. Nothing but the description is read until a tensor is asked for.

    Raises what `load_compressed` does.
    """

    def __init__(self, path: str | Path) -> None:
        self._container = Container(path)
        with self._closing(), _of(self._container, "its description"):
            self.metadata: dict[str, str] = _texts(self._container.body["metadata"])
            self._entries: dict[str, Any] = dict(self._container.body["tensors"])
            parts = [part for entry in self._entries.values() for part in entry["parts"].values()]
            self._container.check_parts(parts)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """Of the tensors, in the order of the file."""
        return list(self._entries)

    def checked_names(self, names: Collection[str] | None) -> list[str]:
        """These names, or all. TypeError for a text, ValueError for names that the file does not have."""
        if isinstance(names, str):
            raise TypeError(f"names: expected a list of names, got the text {names!r}")
        if names is not None and (missing := [name for name in names if name not in self._entries]):
            near = get_close_matches(missing[0], self._entries, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"names: {self._container.path} has no tensor {missing[0]!r}{hint}")
        return self.names if names is None else list(names)

    def quantized(self, name: str) -> Tensor | QuantizedTensor:
        """One tensor; what a scheme made of it as it is. ValueError for names that the file does not have."""
        self.checked_names([name])
        entry = self._entries[name]
        with _of(self._container, name):
            return from_parts(entry, {part: self._part(stored) for part, stored in entry["parts"].items()})

    def tensor(self, name: str) -> Tensor:
        """One tensor in its own dtype. ValueError for names that the file does not have."""
        found = self.quantized(name)
        if isinstance(found, Tensor):
            return found
        with _of(self._container, name):
            return found.dequantize()

    def report(self) -> CompressionReport:
        """What each tensor takes, by the description alone."""
        with _of(self._container, "its description"):
            return report_of(self._entries, self._container.path.stat().st_size)

    def _part(self, stored: dict[str, Any]) -> Part:
        data = self._container.part(stored)
        if "code" in stored:
            return Coded.from_dict(stored["code"], data)
        dtype, shape = dtype_called(stored["kept"]["dtype"]), tuple(stored["kept"]["shape"])
        if math.prod(shape) * dtype.itemsize != data.size:
            raise ValueError(f"{data.size} bytes, which are no {dtype} {shape}")
        kept = torch.empty(shape, dtype=dtype)
        kept.reshape(-1).view(torch.uint8).numpy()[:] = data
        return kept

    def close(self) -> None:
        """Lets go of the file."""
        self._container.close()

    def __enter__(self) -> CompressedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _texts(metadata: Any) -> dict[str, str]:
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise ValueError(f"metadata: got {metadata!r:.80}, accepted: text → text")
    return dict(metadata)


def load_compressed(path: str | Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """name → tensor of a file of `compress`, in their dtypes; of these names alone, and nothing else is decoded.

    FileNotFoundError where there is no file; ValueError, naming file and tensor, for one that is damaged, of another
    kind or a later version, and for names that it does not have.
    """
    with CompressedModel(path) as model:
        return {name: model.tensor(name) for name in model.checked_names(names)}


def describe_compressed(path: str | Path) -> CompressionReport:
    """What each tensor of a file takes; nothing is decoded. Raises what `load_compressed` does."""
    with CompressedModel(path) as model:
        return model.report()
