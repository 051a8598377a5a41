"""`convert` makes the layers of a model quantised ones, in place; `revert` makes them plain ones again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from narrowgauge.nn.conversion import REASON, become, become_plain
from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.layer_choice import (
    Choice,
    Filter,
    Pattern,
    Place,
    checked_overrides,
    checked_skip,
    has_blocks,
    kept_blocks,
    layer_places,
)
from narrowgauge.nn.layer_kinds import LAYERS, QUANTISED, nearest_kind, plain_kind, quantised_kind
from narrowgauge.nn.recipe import Recipe, get_recipe


def convert(
    model: nn.Module,
    recipe: str | Recipe | Mapping[str, Any] = "fp8_row",
    filter_fn: Filter | None = None,
    skip: Collection[Pattern] = ("lm_head",),
    *,
    overrides: Mapping[Any, str | Recipe | Mapping[str, Any] | None] | None = None,
    keep_first: int | None = None,
    keep_last: int | None = None,
    layers: Collection[str] = ("linear",),
) -> nn.Module:
    """Makes every `nn.Linear` of `model` a `QuantLinear` under `recipe`, in place, and returns the model.

    The layers stay the same objects with the same parameters: optimizers, hooks, tied weights and state_dict keys stay
    valid. `explain(model)` shows what was converted, what was not, and why.

    filter_fn(module, qualified_name) -> bool: False leaves a layer alone (as in torchao).
    skip: patterns of layers to leave alone: a qualified name, its last parts, a glob over the whole name ("*.mlp.*"),
    or a compiled regular expression, searched for in the name.
    overrides: pattern → recipe, or None to leave alone; the first that matches counts, before skip, filter_fn and kept
    blocks.
    keep_first, keep_last: that many of the model's repeated blocks (the largest `nn.ModuleList`, or `nn.Sequential`
    where there is none) stay in high precision; None: what the recipe says, where there are any.
    layers: which kinds, of "linear" (GPT-2's `Conv1D` of transformers included), "conv" and "embedding".

    Converting again changes nothing under the same recipe, and the recipe under another; what is left alone this time
    stays as it was. Layers whose weight somebody else reads or computes, and subclasses, are left alone.

    Raises ValueError for unknown recipes and layers, for overrides that name nothing, for skip given as one string, and
    when nothing matched; the model is unchanged then.
    """
    plan = get_recipe(recipe)
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"filter_fn: expected a function (module, name) -> bool, got {type(filter_fn).__name__}")
    unknown = [layer for layer in layers if layer not in LAYERS] if not isinstance(layers, str) else [layers]
    if unknown:
        raise ValueError(f"layers: got {unknown[0]!r}, accepted: a collection of {', '.join(LAYERS)}")
    places = [place for place in layer_places(model) if _kind_of(place).layer in layers]
    choice = Choice(
        recipe=plan,
        filter_fn=filter_fn,
        skip=checked_skip(skip),
        overrides=checked_overrides(overrides, places),
        kept=_kept(model, plan, keep_first, keep_last),
    )
    chosen = [choice.of(place) for place in places]
    if all(isinstance(decision, str) for decision in chosen):
        reasons = [f"{place.names[0]}: {decision}" for place, decision in zip(places, chosen, strict=True)]
        listed = f" ({'; '.join(reasons[:5])})" if reasons else ""
        own = keep_first is None and keep_last is None and any(plan.keep) and has_blocks(model)
        way_out = f"; the recipe {plan.name!r} keeps blocks {plan.keep}: keep_first=0, keep_last=0 overrides it" * own
        raise ValueError(f"model: no {' or '.join(layers)} layer to convert{listed}{way_out}")
    made = [_made(place, decision, number) for number, (place, decision) in enumerate(zip(places, chosen, strict=True))]
    for place, decision, new in zip(places, chosen, made, strict=True):
        if isinstance(decision, str) and quantised_kind(place.layer) is None:
            place.layer.__dict__[REASON] = decision
        elif new is not None:
            if quantised_kind(place.layer) is not None:
                become_plain(place.layer)
            become(place.layer, new)
    match_fast_paths(model)
    return model


def _kind_of(place: Place) -> Any:
    return nearest_kind(place.layer)


def _kept(model: nn.Module, plan: Recipe, first: int | None, last: int | None) -> tuple[str, ...]:
    """The blocks that stay, from the arguments, else the recipe, which speaks of models that have blocks."""
    if first is None and last is None and not has_blocks(model):
        return ()
    return tuple(kept_blocks(model, plan.keep[0] if first is None else first, plan.keep[1] if last is None else last))


def _made(place: Place, decision: Recipe | str, number: int) -> nn.Module | None:
    """What the layer is to become, or None where it stays. Nothing is changed yet, so an error leaves a whole model."""
    layer = place.layer
    present = getattr(layer, "recipe", None) if quantised_kind(layer) is not None else None
    if isinstance(decision, str) or present == decision:
        return None
    kind = plain_kind(layer) or quantised_kind(layer)
    assert kind is not None  # `obstacle` gave a reason for every other
    try:
        new = kind.make(layer, decision, seed=number)
    except ValueError as error:
        raise ValueError(f"{place.names[0] or type(layer).__name__}: {error}") from error
    counter = layer._buffers.get("rounding_step")
    if counter is not None and new._buffers.get("rounding_step") is not None:
        new._buffers["rounding_step"] = counter
    return new


def revert(model: nn.Module) -> nn.Module:
    """Makes every quantised layer of `model` a plain one with the same parameters, in place, and returns the model.

    What `convert` found is found again, to the bit: classes, parameters, buffers, hooks, modes. Parameters keep what
    they learned. ValueError for a layer whose class was derived from a quantised one, as `fully_shard` does.
    """
    derived = [
        (name, type(module).__name__)
        for name, module in model.named_modules()
        if isinstance(module, QUANTISED) and quantised_kind(module) is None
    ]
    if derived:
        raise ValueError(f"model: {derived[0][0]} is a {derived[0][1]}; revert before a layer itself is wrapped")
    for place in layer_places(model):
        if quantised_kind(place.layer) is not None:
            become_plain(place.layer)
        place.layer.__dict__.pop(REASON, None)
    match_fast_paths(model)
    return model
