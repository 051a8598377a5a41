"""What a module is in a file: what makes a plain one like it, and what holds its weights as codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.adapters.lora import LoRALinear
from narrowgauge.nn.files.arguments import named
from narrowgauge.nn.inference.conv import InferenceConv
from narrowgauge.nn.inference.embedding import InferenceEmbedding
from narrowgauge.nn.inference.forms import form_of, has_form
from narrowgauge.nn.inference.linear import InferenceLinear
from narrowgauge.nn.layer_kinds import LayerKind, quantised_kind
from narrowgauge.nn.qat.freeze import FrozenLinear
from narrowgauge.nn.qat.linear import QATLinear
from narrowgauge.nn.restorable import REGISTERED, Encoded, register

WAY_OUT = "use weights=None, which keeps high-precision weights"

BUILT_IN: tuple[type[nn.Module], ...] = (
    InferenceLinear,
    InferenceConv,
    InferenceEmbedding,
    FrozenLinear,
    QATLinear,
    LoRALinear,
)
"""The classes that are registered from the beginning."""
for _cls in BUILT_IN:
    register(_cls)


def trained_kind(module: nn.Module) -> LayerKind | None:
    """Of a layer that trains under a recipe."""
    return quantised_kind(module)


def is_registered(module: nn.Module) -> bool:
    """Whether the module is of a registered class."""
    return REGISTERED.get(type(module).__name__) is type(module)


def check_known(name: str, module: nn.Module) -> None:
    """TypeError for a quantised module that files cannot restore."""
    if trained_kind(module) is not None or is_registered(module):
        return
    for attribute in ("recipe", "quantization"):
        if hasattr(module, attribute):
            raise TypeError(
                f"model: {name or 'itself'} is {named(type(module))}, which has a {attribute} and is not known to "
                "files; see narrowgauge.nn.restorable"
            )


def encoded_tensors(module: nn.Module) -> Mapping[str, Encoded]:
    """Tensors that a registered module holds as codes."""
    return getattr(module, "encoded", {}) if is_registered(module) else {}


def with_codes(name: str, module: nn.Module, weights: Scheme | None) -> nn.Module:
    """The module that holds as codes what `module` quantises in every call, or `module` where that is nothing.

    weights: a scheme in the place of the recipe's for weights. ValueError where there is no such module.
    """
    if trained_kind(module) is not None:
        return _codes(name, module, weights)
    if is_registered(module):
        if weights is None and hasattr(module, "to_inference"):
            convert: Any = module.to_inference
            made: nn.Module = convert()
            return made
        _check_scheme(name, module, weights)
    return module


def _check_scheme(name: str, module: nn.Module, weights: Scheme | None) -> None:
    for tensor, encoded in encoded_tensors(module).items():
        if weights is not None and encoded.scheme != weights:
            raise ValueError(
                f"weights: {name}.{tensor} is held as codes of {encoded.scheme}, got {weights}; its codes are not "
                "quantised again: use weights='recipe'"
            )


def _codes(name: str, layer: nn.Module, weights: Scheme | None) -> nn.Module:
    recipe: Any = layer.recipe
    if weights is None and recipe.w_fprop is None:
        return layer
    where = f"weights: {name or 'the model'} under recipe {recipe.name!r} has no form of codes"
    if not has_form(layer):
        raise ValueError(f"{where}: it is {named(type(layer))}; {WAY_OUT}")
    try:
        return form_of(layer, weights)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} ({error}); {WAY_OUT}") from error


def described(module: nn.Module) -> dict[str, Any] | None:
    """What a registered module is."""
    if not is_registered(module):
        return None
    found: Any = module.quantization
    return dict(found)
