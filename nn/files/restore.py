"""`load`: a model of the original classes becomes the one that was exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from narrowgauge.formats import get
from narrowgauge.nn.conversion import become, become_plain
from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.files.arguments import check_model, named
from narrowgauge.nn.files.container import Contents, of_the_file, read
from narrowgauge.nn.files.data import from_data
from narrowgauge.nn.files.modules import described, is_registered, trained_kind
from narrowgauge.nn.files.number_formats import know_formats
from narrowgauge.nn.files.save import joined, own_tensors
from narrowgauge.nn.inference.replace import move_hooks
from narrowgauge.nn.layer_kinds import KINDS, plain_kind
from narrowgauge.nn.recipe import Recipe
from narrowgauge.nn.restorable import REGISTERED

SHOWN = 5
"""Names in a message."""
_REGISTRIES = ("_parameters", "_buffers", "_modules")


class Place(NamedTuple):
    """Where a tensor lives in a model."""

    module: nn.Module
    attribute: str
    tensor: Tensor


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Makes `model` the one that `export` wrote to `path`, bit for bit and in place, and returns it.

    model: of the classes that the exported one had before `convert`, converted itself or not; layers become what the
    file says they were, and tensors get the dtypes of the file. Layers that train stay the objects they are, with their
    parameters; layers that hold codes are new objects in the same places. Tied weights are tied. Devices stay; what is
    on the meta device gets its values on the CPU.

    ValueError, before anything changes, for files that are damaged, of another kind or a later version; for quantised
    layers of the model that are plain ones in the file (`revert` it first), for other names and shapes, and for weights
    that the model ties and the file does not; for buffers on the meta device that are not part of a state_dict, which
    no file has; and for a folder. FileNotFoundError where there is no file, TypeError for what is no model or no path.
    """
    check_model(model)
    contents = read(path)
    with of_the_file(contents.path), _undone_on_error(model):
        know_formats(contents.body["formats"])
        recipes = {key: _recipe(data) for key, data in contents.body["recipes"].items()}
        _convert(model, contents.body["modules"], recipes)
        places = _places(model)
        _check_names(places, contents)
        _check_ties(places, contents.body["aliases"])
        _check_other_buffers(model)
    _fill(places, contents)
    for module in model.modules():
        if trained_kind(module) is not None or is_registered(module):
            # What these keep of their buffers in Python is read anew.
            module.load_state_dict({}, strict=False)
    match_fast_paths(model)
    return model


@contextmanager
def _undone_on_error(model: nn.Module) -> Iterator[None]:
    """On an error every module gets back its class, attributes, parameters, buffers and children, every parameter its
    wish for a gradient."""
    wishes = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    before = [
        (module, type(module), dict(module.__dict__), {r: dict(module.__dict__[r]) for r in _REGISTRIES},
         set(module._non_persistent_buffers_set))
        for module in model.modules()
    ]  # fmt: skip
    try:
        yield
    except BaseException:
        for module, cls, attributes, registries, not_persistent in before:
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for registry, content in registries.items():
                module.__dict__[registry].clear()
                module.__dict__[registry].update(content)
            module._non_persistent_buffers_set = not_persistent
        for parameter, wish in wishes:
            parameter.requires_grad_(wish)
        raise


def _recipe(data: Any) -> Recipe:
    recipe: Recipe = from_data(data, Recipe, get)
    return recipe


class Done(NamedTuple):
    """A module of the model that was dealt with under a name, and what is there now."""

    name: str
    entry: Mapping[str, Any]
    new: nn.Module


def _convert(model: nn.Module, modules: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> None:
    done: dict[int, Done] = {}
    for name, entry in modules.items():
        try:
            place = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"model: has no module {name!r}, in the file {named(entry['class'])}") from None
        known = done.get(id(place))
        if known is not None and name.startswith(f"{known.name}."):
            known = None  # what went into its place has it inside
        if known is not None and known.entry != entry:
            raise ValueError(f"model: {name} is {known.name}, in the file they are quantised differently")
        if "recipe" in entry:
            _make_trained(name, place, entry["class"], recipes[entry["recipe"]], entry["seed"])
            new = place
        else:
            new = known.new if known else _registered(name, place, entry)
        done.setdefault(id(place), Done(name, entry, new))
        if new is not place:
            _put(model, name, new)
    for name, module in model.named_modules(remove_duplicate=False):
        if name not in modules and (trained_kind(module) is not None or is_registered(module)):
            raise ValueError(
                f"model: {name or 'itself'} is {named(type(module))}, in the file a plain layer; revert it first"
            )


def _make_trained(name: str, place: nn.Module, cls: str, recipe: Recipe, seed: int) -> None:
    present = trained_kind(place)
    same = getattr(place, "recipe", None) == recipe and getattr(place, "seed", None) == seed
    if present is not None and present.quantised.__name__ == cls and same:
        return
    if present is not None:
        become_plain(place)
    kind = plain_kind(place)
    if kind is None or kind.quantised.__name__ != cls:
        made_of = [".".join(kind.plain) for kind in KINDS if kind.quantised.__name__ == cls]
        raise ValueError(
            f"model: {name or 'itself'} is {named(type(place))}, in the file {named(cls)}, which is made of "
            f"{' or '.join(made_of) or 'a class that is not known here'}"
        )
    become(place, kind.make(place, recipe, seed=seed))


def _registered(name: str, place: nn.Module, entry: Mapping[str, Any]) -> nn.Module:
    """A module as the file says, or `place` where that is one."""
    cls = REGISTERED.get(entry["class"])
    if cls is None:
        raise ValueError(
            f"{name} is {named(entry['class'])}, which is not registered here; known: {', '.join(REGISTERED)}; import "
            "the module that defines it"
        )
    if type(place) is cls and described(place) == entry["quantization"]:
        return place
    device = next((tensor.device for tensor in place.state_dict().values()), torch.device("cpu"))
    # The values come from the file; what the constructor draws must not show.
    drawn = [device] if device.type == "cuda" else []
    wraps: Any = getattr(cls, "from_place", None)
    with torch.random.fork_rng(drawn), torch.device("cpu" if device.type == "meta" else device):
        made: nn.Module = cls(**entry["quantization"]) if wraps is None else wraps(place, **entry["quantization"])
    if made is not place:
        move_hooks(place, made)
    return made.train(place.training)


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    if not attribute:
        raise ValueError(f"model: is {named(type(model))}, in the file {named(type(new))}; give one of those")
    setattr(model.get_submodule(parent), attribute, new)


def _places(model: nn.Module) -> dict[str, Place]:
    return {
        joined(prefix, attribute): Place(module, attribute, tensor)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for attribute, tensor in own_tensors(module)
    }


def _check_names(places: Mapping[str, Place], contents: Contents) -> None:
    aliases = contents.body["aliases"]
    saved = contents.tensors.keys() | aliases.keys()
    for here, there, what in ((saved, places.keys(), "missing in the model"), (places, saved, "not in the file")):
        other = [name for name in here if name not in there]
        if other:
            more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
            raise ValueError(f"model: {', '.join(sorted(other)[:SHOWN])}{more}: {what}; names have to be the same")
    for name, place in places.items():
        shape = contents.tensors[aliases.get(name, name)].shape
        if place.tensor.shape != shape:
            raise ValueError(f"model: {name} has shape {list(place.tensor.shape)}, in the file {list(shape)}")


def _check_ties(places: Mapping[str, Place], aliases: Mapping[str, str]) -> None:
    first: dict[int, str] = {}
    for name, place in places.items():
        root = first.setdefault(id(place.tensor), name)
        if aliases.get(root, root) != aliases.get(name, name):
            raise ValueError(f"model: ties {name} to {root}, the file has two tensors; untie them first")


def _check_other_buffers(model: nn.Module) -> None:
    """ValueError for buffers outside of the state that are on the meta device."""
    names = [
        joined(prefix, name)
        for prefix, module in model.named_modules()
        for name in sorted(module._non_persistent_buffers_set)
        if (buffer := module._buffers.get(name)) is not None and buffer.is_meta
    ]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ValueError(
            f"model: {', '.join(names[:SHOWN])}{more}: on the meta device, and not in files (persistent=False); give "
            "these buffers their values before load, or make the model on a device that holds values"
        )


@torch.no_grad()
def _fill(places: Mapping[str, Place], contents: Contents) -> None:
    filled: dict[str, Tensor] = {}
    for name, value in contents.tensors.items():
        filled[name] = _set(places[name], value)
    for name, root in contents.body["aliases"].items():
        module, attribute, tensor = places[name]
        if tensor is not filled[root]:
            registry = module._parameters if attribute in module._parameters else module._buffers
            registry[attribute] = filled[root]  # type: ignore[assignment]


def _set(place: Place, value: Tensor) -> Tensor:
    """Gives the tensor its value, in place where it can stay; what is in the model now."""
    module, attribute, tensor = place
    if tensor.dtype == value.dtype and not tensor.is_meta:
        return tensor.copy_(value)
    new = value.clone() if tensor.is_meta else value.to(tensor.device, copy=True)
    if attribute in module._buffers:
        module._buffers[attribute] = new
        return new
    if tensor.is_meta:
        parameter = nn.Parameter(new, requires_grad=tensor.requires_grad)
        module._parameters[attribute] = parameter
        return parameter
    tensor.data = new
    return tensor
