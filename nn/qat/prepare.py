"""`prepare_qat` swaps the linear layers of a model for `QATLinear`, in place; `revert_qat` swaps them back."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.inference.replace import places_of, put
from narrowgauge.nn.layer_choice import DTYPES, Filter, Pattern, checked_skip, matches
from narrowgauge.nn.qat.config import QATConfig
from narrowgauge.nn.qat.linear import QATLinear
from narrowgauge.nn.qat.registry import qat


def qat_layers(model: nn.Module) -> dict[str, QATLinear]:
    """Every `QATLinear` of `model` by qualified name, a shared one once. ValueError if there is none."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, QATLinear)}
    if not layers:
        raise ValueError("model: no layer is under QAT; call prepare_qat first")
    return layers


def _left_alone(
    layer: nn.Module, names: Collection[str], filter_fn: Filter | None, skip: Collection[Pattern]
) -> str | None:
    """Why a layer of these names is not to be prepared, or None."""
    if type(layer) not in (nn.Linear, QATLinear):
        return f"a {type(layer).__name__}, whose own forward may differ from nn.Linear's"
    for name in names:
        for pattern in skip:
            if matches(pattern, name):
                return f"skip: {(pattern if isinstance(pattern, str) else pattern.pattern)!r}"
        if filter_fn is not None and not filter_fn(layer, name):
            return "filter_fn said no"
    if layer.weight.dtype not in DTYPES:
        return f"weight dtype {layer.weight.dtype}"
    return None


def prepare_qat(
    model: nn.Module,
    config: str | QATConfig,
    filter_fn: Filter | None = None,
    skip: Collection[Pattern] = ("lm_head",),
) -> nn.Module:
    """Replaces every `nn.Linear` below `model` by a `QATLinear` under `config`, in place, and returns the model.

    config: a `QATConfig`, or a method's name for its default settings. filter_fn(module, qualified_name) -> bool: False
    leaves a layer alone. skip: patterns of layers to leave alone, as in `convert`. The parameters are the same
    objects; what the quantisers learn is added to them, so make the optimizer (or add a group) afterwards. A layer that
    already has this config stays as it is, with what it has learned; under another config it begins anew.

    Raises ValueError for unknown methods, skip given as one string, settings that do not fit a layer (by name), and
    when no layer matched. Then the model is unchanged.
    """
    plan = qat(config) if isinstance(config, str) else config
    if not isinstance(plan, QATConfig):
        raise TypeError(f"config: expected a QATConfig or a method's name, got {type(plan).__name__}")
    patterns = checked_skip(skip)
    if isinstance(model, nn.Linear):
        raise ValueError("model: is itself an nn.Linear; use QATLinear.from_linear(layer, config)")
    places = places_of(model, lambda module: isinstance(module, nn.Linear))
    reasons = [_left_alone(layer, names, filter_fn, patterns) for layer, names in places]
    if all(reason is not None for reason in reasons):
        told = (f"{next(iter(names))}: {reason}" for (_, names), reason in zip(places[:5], reasons, strict=False))
        listed = "; ".join(told)
        raise ValueError(f"model: no nn.Linear to prepare{f' ({listed})' if listed else ''}")
    chosen = [place for place, reason in zip(places, reasons, strict=True) if reason is None]
    made = [_prepared(layer, next(iter(names)), plan) for layer, names in chosen]
    for (layer, names), new in zip(chosen, made, strict=True):
        if new is not layer:
            put(layer, new, names)
    match_fast_paths(model)
    return model


def _prepared(layer: nn.Linear, name: str, plan: QATConfig) -> QATLinear:
    if isinstance(layer, QATLinear) and layer.config == plan:
        return layer
    try:
        return QATLinear.from_linear(layer, plan, kv=name.rpartition(".")[2] in plan.kv_layers)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def revert_qat(model: nn.Module) -> nn.Module:
    """Replaces every `QATLinear` below `model` by a plain `nn.Linear` with the same parameters, in place."""
    for layer, names in places_of(model, lambda module: isinstance(module, QATLinear)):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight, plain.bias = layer.weight, layer.bias
        put(layer, plain.train(layer.training), names)
    match_fast_paths(model)
    return model


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the quantisers of `model` learn (steps, zero points, clipping points), for a parameter group of its own."""
    found: dict[int, nn.Parameter] = {}
    for layer in qat_layers(model).values():
        for name, parameter in layer.named_parameters():
            if "." in name:
                found[id(parameter)] = parameter
    return list(found.values())


@torch.no_grad()
def after_step(model: nn.Module) -> None:
    """What methods do to stored weights after an optimizer step (BinaryConnect clips them to [−1, 1])."""
    for layer in qat_layers(model).values():
        layer.weight_quantizer.after_step_(layer.weight)
