"""Adapters on a whole model: `add_lora`, what is trained, what is saved, `merge_lora`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.adapters.lora import LoRALinear, check_settings, is_adaptable
from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.inference.replace import places_of, put
from narrowgauge.nn.layer_choice import Pattern, checked_skip, matches
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.qat.linear import QATLinear
from narrowgauge.nn.transposed_linear import is_transposed_linear

QLORA = "nf4"
"""The base of arXiv 2305.14314: NF4 in blocks of 64 along each row, whose scales are quantised to 8 bits themselves."""

Target = Callable[[nn.Module, str], bool] | Collection[Pattern]


def add_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    target: Target | None = None,
    base: str | Scheme | None = None,
    *,
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Puts a `LoRALinear` around linear layers below `model`, in place, freezes every other parameter, and returns the
    model.

    target: fn(module, qualified_name) -> bool, or patterns as in `convert` ("q_proj", "*.attn.*"); None: every linear
    layer but `lm_head`. Layers of the exact classes `nn.Linear`, `QuantLinear`, `InferenceLinear` and transformers'
    Conv1D can have adapters.
    base: None leaves the base as it is; "nf4" makes it NF4 with double-quantised scales (QLoRA), the text of a scheme
    ("int8/row") codes of that. A row whose length no multiple of 64 is ends with a shorter block.
    dtype: of the adapters, by default that of each base. A starts at random from torch's generator.

    A layer that is used in several places stays one. Layers that have an adapter, or are under QAT, take none. Raises
    ValueError when nothing matched, for patterns that match nothing else, and for a base of codes whose weight another
    module shares; TypeError for settings of other types; the model is unchanged then.
    """
    check_settings(rank, alpha, dropout, dtype)
    chosen = _chosen(model, target)
    _check(model, chosen, base)
    bases = [_based(layer, base) for layer, _ in chosen]
    for (layer, places), below in zip(chosen, bases, strict=True):
        put(layer, LoRALinear(below, rank, alpha, dropout, dtype=dtype), places)
    model.requires_grad_(False)
    for parameter in lora_parameters(model):
        parameter.requires_grad_(True)
    match_fast_paths(model)
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Replaces every `LoRALinear` below `model` by its base with the adapter in the weight (`LoRALinear.merged`), in
    place, and returns the model. All parameters of these layers are trainable afterwards, other layers as they are.

    ValueError for a model without adapters, or one that is a LoRALinear itself.
    """
    found = _adapters(model)
    if not found:
        raise ValueError("model: has no LoRALinear below it to merge")
    for layer, places in found:
        put(layer, layer.merged(), places)
    match_fast_paths(model)
    return model


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """A and B of every adapter of the model, in its order: what an optimizer takes."""
    layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
    return [parameter for layer in layers for parameter in (layer.lora_A, layer.lora_B)]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A and B by qualified name, detached: what a file of adapters holds."""
    return {
        f"{name}.{part}" if name else part: getattr(module, part).detach()
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
        for part in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies adapters into the model. ValueError unless `state` has exactly the model's adapters, shape by shape."""
    own = lora_state_dict(model)
    if own.keys() != state.keys():
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        raise ValueError(f"state: missing {missing[:3] or 'nothing'}, unexpected {extra[:3] or 'nothing'}")
    for name, kept in own.items():
        if kept.shape != state[name].shape:
            raise ValueError(f"state: {name} has shape {tuple(state[name].shape)}, expected {tuple(kept.shape)}")
    for name, kept in own.items():
        kept.copy_(state[name])


def _based(layer: nn.Module, base: str | Scheme | None) -> nn.Module:
    if base is None:
        return layer
    if base == QLORA:
        return InferenceLinear.from_linear(layer, "nf4/1x64", double_scale=True)
    return InferenceLinear.from_linear(layer, base)


def _adapters(model: nn.Module) -> list[tuple[LoRALinear, dict[str, nn.Module]]]:
    return places_of(model, lambda module: isinstance(module, LoRALinear))


def _exact(layer: nn.Module) -> bool:
    """A linear layer whose forward is known; not that of `nn.MultiheadAttention`, which is never called."""
    return type(layer) in (nn.Linear, QuantLinear, InferenceLinear) or is_transposed_linear(layer)


def _closed(model: nn.Module, patterns: Collection[Pattern] | None = None) -> str:
    """Which layers (of those that the patterns name) take no adapter, and the way out; empty without any."""
    told = ""
    for cls, reason in (
        (LoRALinear, "an adapter already; merge_lora puts it into the weight"),
        (QATLinear, "QAT quantisers; freeze_qat or revert_qat first"),
    ):
        names = [
            name or "the model itself"
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, cls) and (patterns is None or any(matches(pattern, name) for pattern in patterns))
        ]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            told += f"; {', '.join(names[:3])}{more} {'has' if len(names) == 1 else 'have'} {reason}"
    return told


def _chosen(model: nn.Module, target: Target | None) -> list[tuple[nn.Module, dict[str, nn.Module]]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = places_of(model, lambda module: is_adaptable(module) and _exact(module))
    # The base of an adapter is adapted already.
    places = [place for place in found if not any(isinstance(parent, LoRALinear) for parent in place[1].values())]
    if target is None:
        chosen = [place for place in places if not any(matches("lm_head", name) for name in place[1])]
    elif callable(target):
        chosen = [place for place in places if all(target(place[0], name) for name in place[1])]
    else:
        patterns = _checked_patterns(target)
        for pattern in patterns:
            if not any(matches(pattern, name) for _, names in places for name in names):
                near = ", ".join(next(iter(names)) for _, names in places[:5])
                what = _closed(model, (pattern,)) or f"; names: {near}"
                raise ValueError(f"target: {pattern!r} names no linear layer that can have an adapter{what}")
        chosen = [place for place in places if any(matches(p, name) for p in patterns for name in place[1])]
    if not chosen:
        raise ValueError(f"model: target chose none of its {len(places)} linear layers{_closed(model)}")
    return chosen


def _checked_patterns(target: Collection[Pattern]) -> tuple[Pattern, ...]:
    if isinstance(target, str):
        raise ValueError(f"target: expected a function or a collection of names, got the string {target!r}")
    return checked_skip(target)


def _check(model: nn.Module, chosen: list[tuple[nn.Module, dict[str, nn.Module]]], base: str | Scheme | None) -> None:
    """ValueError for layers that cannot have the base, before anything changes."""
    for layer, places in chosen if base is not None else ():
        name = next(iter(places))
        if isinstance(layer, InferenceLinear):
            raise ValueError(f"base: {name} holds codes already, so base has to be None, got {base!r}")
        weight = layer._parameters.get("weight")
        holders = [where for where, m in model.named_modules() if any(p is weight for p in m.parameters(recurse=False))]
        if weight is None or len(holders) > 1:
            raise ValueError(f"base: the weight of {name} is shared by {' and '.join(holders)}; leave it out of target")
