"""`quantize_for_inference`: the linear layers of a model, and its embeddings, as frozen layers that keep codes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import AnyScheme
from narrowgauge.nn.conversion import REASON
from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.inference.embedding import InferenceEmbedding
from narrowgauge.nn.inference.forms import form_of, has_form
from narrowgauge.nn.inference.linear import InferenceLinear
from narrowgauge.nn.inference.replace import places_of, put
from narrowgauge.nn.inference.stored import DTYPES, StoredWeight, checked_scheme, checked_slot
from narrowgauge.nn.layer_choice import Filter, Pattern, checked_skip, matches
from narrowgauge.nn.transposed_linear import is_transposed_linear

Places = dict[str, nn.Module]
"""The modules that hold a layer, by its qualified name there."""


def quantize_for_inference(
    model: nn.Module,
    weight: str | Scheme | None = "int8/row",
    input: str | AnyScheme | None = None,
    filter_fn: Filter | None = None,
    skip: Collection[Pattern] = ("lm_head",),
    *,
    embedding: str | Scheme | None = None,
) -> nn.Module:
    """Replaces linear layers below `model` by `InferenceLinear`, in place, and returns the model.

    weight: scheme of the weights of `nn.Linear`, `QuantLinear` and transformers' Conv1D; input: of their inputs, None
    for weight-only layers. weight=None: every layer under a recipe (convolutions and embeddings included) as its
    forward pass runs it, to the bit, and no other layer. embedding: scheme of the tables of `nn.Embedding`, None to
    leave them alone. filter_fn(module, name) and skip: as in `convert`.

    A layer that is used in several places stays one layer. Layers that share their weight with another module (tied
    heads) are left alone, since their codes would no longer be shared. Why a layer was left alone is noted on it, for
    `explain`. Hooks move along.

    Raises ValueError for unknown schemes, for a layer on the meta device, and when nothing matched; the model is
    unchanged then.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    patterns = checked_skip(skip)
    if weight is None and input is not None:
        raise ValueError(f"input: got {input}, but weight=None takes both from the layers' recipes")
    if weight is not None:
        checked_scheme(weight, "weight")
    if embedding is not None:
        checked_scheme(embedding, "embedding")
    if input is not None:
        checked_slot(input, "input")

    def wanted(module: nn.Module) -> bool:
        linear = isinstance(module, nn.Linear) or is_transposed_linear(module)
        return linear or (embedding is not None and isinstance(module, nn.Embedding)) or _follows(module, weight)

    found = places_of(model, wanted)
    owners = _owners(model)
    made: list[tuple[nn.Module, Places, nn.Module | str]] = []
    for layer, places in found:
        reason = _obstacle(layer, owners) or _unwanted(layer, places, filter_fn, patterns, weight)
        try:
            made.append((layer, places, reason or _made(layer, weight, input, embedding)))
        except ValueError as error:
            raise ValueError(f"{next(iter(places))}: {error}") from error
    reasons = [f"{next(iter(places))}: {new}" for _, places, new in made if isinstance(new, str)]
    if len(reasons) == len(made):
        reasons[:0] = _held(model)
        raise ValueError(f"model: no layer to quantise{' (' + '; '.join(reasons[:5]) + ')' if reasons else ''}")
    for layer, places, new in made:
        if isinstance(new, str):
            layer.__dict__[REASON] = new
        else:
            put(layer, new, places)
    match_fast_paths(model)
    return model


def _held(model: nn.Module) -> list[str]:
    """Which layers hold codes already, in one reason."""
    held = [name or "itself" for name, module in model.named_modules() if isinstance(module, StoredWeight)]
    if not held:
        return []
    more = f" and {len(held) - 3} more" if len(held) > 3 else ""
    return [f"{', '.join(held[:3])}{more} hold{'s' * (len(held) == 1)} codes already, which are not quantised again"]


def _follows(layer: nn.Module, weight: str | Scheme | None) -> bool:
    """Whether the layer is kept as its recipe's forward pass runs it."""
    return weight is None and has_form(layer)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each parameter; a module of several names once."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def _obstacle(layer: nn.Module, owners: dict[int, list[str]]) -> str | None:
    """Why the layer cannot be replaced, whatever is asked for."""
    exact = type(layer) in (nn.Linear, nn.Embedding) or is_transposed_linear(layer)
    if not exact and not has_form(layer):
        return f"a {type(layer).__name__}, whose own forward may differ from that of its base class"
    if "forward" in layer.__dict__:
        return "its forward was replaced on this layer"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is no parameter: pruned, or normed by a hook"
    if type(weight) not in (nn.Parameter, Tensor):
        return f"its weight is a {type(weight).__name__}, which has an arithmetic of its own"
    if weight.dtype not in DTYPES:
        return f"weight dtype {weight.dtype}"
    if len(owners[id(weight)]) > 1:
        return f"tied: {' and '.join(owners[id(weight)])} share one weight"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return f"max_norm={layer.max_norm} changes the table at every look-up"
    return None


def _unwanted(
    layer: nn.Module, places: Places, filter_fn: Filter | None, skip: tuple[Pattern, ...], weight: str | Scheme | None
) -> str | None:
    """Why the user's choice leaves the layer alone."""
    for name in places:
        for pattern in skip:
            if matches(pattern, name):
                return f"skip: {pattern if isinstance(pattern, str) else pattern.pattern!r}"
        if filter_fn is not None and not filter_fn(layer, name):
            return "filter_fn said no"
    if weight is None and not isinstance(layer, nn.Embedding) and not has_form(layer):
        return "weight=None, and it is under no recipe"
    if _follows(layer, weight) and getattr(layer, "recipe").w_fprop is None:  # noqa: B009
        return "its recipe leaves the weight in high precision"
    return None


def _made(
    layer: Any, weight: str | Scheme | None, input: str | AnyScheme | None, embedding: str | Scheme | None
) -> StoredWeight:
    if _follows(layer, weight) and not (isinstance(layer, nn.Embedding) and embedding is not None):
        return form_of(layer)
    if isinstance(layer, nn.Embedding):
        assert embedding is not None
        return InferenceEmbedding.from_embedding(layer, embedding)
    assert weight is not None
    return InferenceLinear.from_linear(layer, weight, input)
