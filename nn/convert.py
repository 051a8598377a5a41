"""`convert` swaps the linear layers of a model for quantised ones, in place; `revert` swaps them back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import nn

from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.recipe import Recipe, get_recipe

Filter = Callable[[nn.Module, str], bool]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear, str]]:
    """(parent, attribute, layer, qualified name) of every `nn.Linear` below `model`."""
    for prefix, parent in model.named_modules():
        for attribute, child in parent.named_children():
            if isinstance(child, nn.Linear):
                yield parent, attribute, child, f"{prefix}.{attribute}" if prefix else attribute


def left_alone(layer: nn.Linear, name: str, filter_fn: Filter | None, skip: Collection[str]) -> str | None:
    """Why `convert` would leave this layer as it is, or None."""
    if type(layer) not in (nn.Linear, QuantLinear):
        return f"a {type(layer).__name__}, whose own forward may differ from nn.Linear's"
    for entry in skip:
        if name == entry or name.endswith("." + entry):
            return f"skip: {entry!r}"
    if filter_fn is not None and not filter_fn(layer, name):
        return "filter_fn said no"
    if layer.weight.dtype not in DTYPES:
        return f"weight dtype {layer.weight.dtype}"
    return None


def convert(
    model: nn.Module,
    recipe: str | Recipe = "fp8_row",
    filter_fn: Filter | None = None,
    skip: Collection[str] = ("lm_head",),
) -> nn.Module:
    """Replaces every `nn.Linear` below `model` by a `QuantLinear` under `recipe`, in place, and returns the model.

    filter_fn(module, qualified_name) -> bool: False leaves a layer alone (as in torchao). skip: qualified names, or
    their last parts, to leave alone. Parameters are shared, so optimizers, tied weights and state_dict keys stay
    valid. Converting again changes the recipe. `explain(model)` shows what was converted and what was not, and why.

    Raises ValueError for unknown recipes, skip entries given as one string, and when nothing matched.
    """
    plan = get_recipe(recipe)
    if isinstance(skip, str):
        raise ValueError(f"skip: expected a collection of names, got the string {skip!r}; write ({skip!r},)")
    if isinstance(model, nn.Linear):
        raise ValueError("model: is itself an nn.Linear; use QuantLinear.from_linear(layer, recipe)")
    layers = list(linear_layers(model))
    reasons = {name: left_alone(layer, name, filter_fn, skip) for _, _, layer, name in layers}
    if all(reason is not None for reason in reasons.values()):
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:5])
        raise ValueError(f"model: no nn.Linear to convert{f' ({listed})' if listed else ''}")
    swapped: dict[int, QuantLinear] = {}
    for number, (parent, attribute, layer, name) in enumerate(layers):
        if reasons[name] is None:
            # A layer that is used in two places stays one layer.
            new = swapped.setdefault(id(layer), QuantLinear.from_linear(layer, plan, seed=number))
            _carry_hooks(layer, new)
            setattr(parent, attribute, new)
    return model


def revert(model: nn.Module) -> nn.Module:
    """Replaces every `QuantLinear` below `model` by a plain `nn.Linear` with the same parameters, in place."""
    for parent, attribute, layer, _ in list(linear_layers(model)):
        if isinstance(layer, QuantLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight, plain.bias = layer.weight, layer.bias
            plain.train(layer.training)
            _carry_hooks(layer, plain)
            setattr(parent, attribute, plain)
    return model


def _carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Forward and backward hooks belong to the layer's place in the model, so they move along."""
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(new, kind).update(getattr(old, kind))
