"""`export` writes a model, `save_tensors` tensors that `quantize` gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.operand import OperandScheme, parse_operand
from narrowgauge.kernels.tensor import QuantizedTensor
from narrowgauge.nn.files.arguments import check_model, checked_path, named
from narrowgauge.nn.files.container import write
from narrowgauge.nn.files.data import record_data
from narrowgauge.nn.files.entries import encoded, entry_of
from narrowgauge.nn.files.modules import (
    check_known,
    described,
    encoded_tensors,
    trained_kind,
    with_codes,
)
from narrowgauge.nn.files.number_formats import add_format

Body = dict[str, dict[str, Any]]


def export(model: nn.Module, path: str | Path, *, weights: str | Scheme | None = "recipe") -> None:
    """Writes a model to one safetensors file, in the form that docs/checkpoints.md describes.

    weights: "recipe": of every layer that trains under a recipe, the codes, scales and zero points that its forward
    pass makes of the weights, instead of the weights; a scheme ("nf4/1x64"): that one instead of the recipe's scheme
    for weights; None: the high-precision weights, for training that goes on. Layers that hold codes keep them anyway.
    Other tensors are written as they are, tied ones once; the model is left as it was.

    The file gets its name once it is whole and on disk. ValueError for layers without a form of codes (names one), for
    codes that are held under another scheme than `weights`, for a scheme where no layer is quantised, and for a folder;
    TypeError for modules that files do not know (see `narrowgauge.nn.files.register`), for tensors that are no plain
    dense ones, and for what is no model or no path; OSError where it cannot be written.
    """
    check_model(model)
    file = checked_path(path)
    chosen = weights if weights is None or weights == "recipe" else parse(weights)
    body: Body = {"tensors": {}, "formats": {}, "recipes": {}, "modules": {}, "aliases": {}}
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    modules = _as_stored(model, chosen)
    if isinstance(chosen, Scheme) and not any(encoded_tensors(module) for _, module in modules):
        raise ValueError(
            f"weights: got {chosen}, but no layer of the model is quantised; convert(model, …) or "
            "quantize_for_inference(model, …) it first (freeze_qat after QAT)"
        )
    for prefix, module in modules:
        _add_module(body, prefix, module)
        for attribute, tensor in own_tensors(module):
            name = joined(prefix, attribute)
            _check_tensor(name, tensor)
            first = names.setdefault(id(tensor), name)
            if first == name:
                tensors[name] = tensor
            else:
                body["aliases"][name] = first
        for attribute, held in encoded_tensors(module).items():
            stored = {part: names[id(tensor)] for part, tensor in held.parts.items()}
            body["tensors"][joined(prefix, attribute)] = entry_of(held, stored, body["formats"])
    write(file, body, tensors)


def save_tensors(tensors: Mapping[str, Tensor | QuantizedTensor], path: str | Path) -> None:
    """Writes tensors, quantised ones as packed codes and scales, to one safetensors file; `load_tensors` reads it.

    TypeError for other values, for tensors that are no plain dense ones, and for what is no path; ValueError for names
    that collide, and for a folder.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors: expected a mapping of names to tensors, got {type(tensors).__name__}")
    file = checked_path(path)
    body: Body = {"tensors": {}, "formats": {}, "recipes": {}, "modules": {}, "aliases": {}}
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = {name: tensor}
        if isinstance(tensor, QuantizedTensor):
            held = encoded(tensor)
            body["tensors"][name] = entry_of(held, {part: f"{name}.{part}" for part in held.parts}, body["formats"])
            parts = {f"{name}.{part}": value for part, value in held.parts.items()}
        for key, value in parts.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"tensors: {key} is {named(type(value))}, accepted: tensors and QuantizedTensors")
            if key in stored:
                raise ValueError(f"tensors: two are called {key!r}")
            _check_tensor(key, value)
            stored[key] = value
    write(file, body, stored)


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(attribute, tensor) of a module's own parameters and of the buffers that belong to its state."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name, buffer


def joined(prefix: str, name: str) -> str:
    """The qualified name."""
    return f"{prefix}.{name}" if prefix else name


def _as_stored(model: nn.Module, weights: str | Scheme | None) -> list[tuple[str, nn.Module]]:
    """(name, module) of the model, parents first, with the modules that hold codes in the place of those they stand
    for."""
    made: dict[int, nn.Module] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def visit(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        check_known(name, module)
        if id(module) not in made:
            scheme = weights if isinstance(weights, Scheme) else None
            made[id(module)] = module if weights is None else with_codes(name, module, scheme)
            pairs.append((module, made[id(module)]))
        new = made[id(module)]
        yield name, new
        for attribute, child in new._modules.items():
            if child is not None:
                yield from visit(joined(name, attribute), child)

    modules = list(visit("", model))
    _share_codes(pairs)
    return modules


def _share_codes(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Lets layers that were made of one tied weight hold the same tensors where these are equal."""
    held: dict[tuple[int, str], Mapping[str, Tensor]] = {}
    for old, new in pairs:
        if old is new:
            continue
        names = {id(tensor): name for name, tensor in new._buffers.items()}
        for attribute, tensor in encoded_tensors(new).items():
            weight = getattr(old, attribute, None)
            first = held.setdefault((id(weight), str(tensor.scheme)), tensor.parts)
            if first is not tensor.parts and _same_bits(first, tensor.parts):
                for part, value in tensor.parts.items():
                    setattr(new, names[id(value)], first[part])


def _same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[part].shape == b[part].shape
        and torch.equal(a[part].reshape(-1).view(torch.uint8), b[part].reshape(-1).view(torch.uint8))
        for part in a
    )


def _add_module(body: Body, name: str, module: nn.Module) -> None:
    """Adds what makes a plain module of the model's class one like this."""
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        raise TypeError(f"model: {name} is {named(type(module))} with extra state, which is no tensor")
    entry: dict[str, Any] = {"class": type(module).__name__}
    quantization = described(module)
    if trained_kind(module) is not None:
        body["modules"][name] = entry | {"recipe": _add_recipe(body, module.recipe), "seed": module.seed}
    elif quantization is not None:
        for text in _texts(quantization):
            _note_scheme(body, text)
        body["modules"][name] = entry | {"quantization": quantization}


def _add_recipe(body: Body, recipe: Any) -> str:
    """The recipe's key in the file: its name, with a number where another has that."""
    data = record_data(recipe, lambda fmt: add_format(body["formats"], fmt))
    key, number = recipe.name, 1
    while body["recipes"].setdefault(key, data) != data:
        number += 1
        key = f"{recipe.name}#{number}"
    return key


def _texts(data: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from _texts(value)


def _note_scheme(body: Body, text: str) -> None:
    """Adds the format of a scheme; other texts have none."""
    try:
        scheme = parse_operand(text)
    except ValueError:
        return
    add_format(body["formats"], scheme.scheme.format if isinstance(scheme, OperandScheme) else scheme.format)


def _check_tensor(name: str, tensor: Tensor) -> None:
    plain = tensor.detach()
    if type(plain) is not Tensor:
        raise TypeError(f"model: {name} is {named(type(plain))}, accepted: plain tensors; gather shards first")
