"""Which layers `convert` changes, by name, and why it leaves the others alone.

A pattern is the qualified name of a layer, its last parts ("lm_head", "mlp.up"), a glob over the whole name
("*.mlp.*"; * crosses dots), or a compiled regular expression that is searched for in the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.parametrize import is_parametrized

from narrowgauge.nn.layer_kinds import nearest_kind, plain_kind, quantised_kind
from narrowgauge.nn.recipe import Recipe, get_recipe

Filter = Callable[[nn.Module, str], bool]
Pattern = str | re.Pattern[str]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Place(NamedTuple):
    """A layer, all its names in the model, and the modules that hold it."""

    layer: nn.Module
    names: tuple[str, ...]
    parents: tuple[nn.Module, ...]


def layer_places(model: nn.Module) -> list[Place]:
    """Every layer of a known kind, or derived from one, at or below `model`, in the order of the model. TypeError for
    what is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found: dict[int, tuple[nn.Module, dict[str, nn.Module]]] = {}
    if nearest_kind(model) is not None:
        found[id(model)] = (model, {"": model})
    for prefix, parent in model.named_modules(remove_duplicate=False):
        for attribute, child in parent._modules.items():
            if child is not None and nearest_kind(child) is not None:
                name = f"{prefix}.{attribute}" if prefix else attribute
                found.setdefault(id(child), (child, {}))[1][name] = parent
    return [Place(layer, tuple(names), tuple(names.values())) for layer, names in found.values()]


def matches(pattern: Pattern, name: str) -> bool:
    """Whether the pattern names this layer."""
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(name, pattern)
    return name == pattern or name.endswith("." + pattern)


def obstacle(place: Place) -> str | None:
    """Why this layer cannot be converted, whatever is asked for, or None."""
    layer = place.layer
    for parent in place.parents:
        if isinstance(parent, nn.MultiheadAttention) and layer is parent.out_proj:
            return "nn.MultiheadAttention reads its weight and never calls it"
    if is_parametrized(layer):
        return "parametrized: its weight is computed anew in every forward"
    if plain_kind(layer) is None and quantised_kind(layer) is None:
        return f"a {type(layer).__name__}, whose own forward may differ from that of its base class"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is no parameter: pruned, or normed by a hook"
    if "forward" in layer.__dict__:
        return "its forward was replaced on this layer"
    if weight.dtype not in DTYPES:
        return f"weight dtype {weight.dtype}"
    sharded = isinstance(weight, DTensor) and getattr(layer, "_is_fsdp_managed_module", False)
    if type(weight) not in (nn.Parameter, torch.Tensor) and not sharded:
        return f"its weight is a {type(weight).__name__}, which has an arithmetic of its own"
    return None


@dataclass(frozen=True)
class Choice:
    """What a user asked for: the arguments of `convert`. kept: prefixes of the blocks that stay as they are."""

    recipe: Recipe
    filter_fn: Filter | None
    skip: tuple[Pattern, ...]
    overrides: tuple[tuple[Pattern, Recipe | None], ...]
    kept: tuple[str, ...]

    def of(self, place: Place) -> Recipe | str:
        """The recipe of this layer, or why it is left alone. A layer of several names is left alone for any of them."""
        reason = obstacle(place)
        if reason is not None:
            return reason
        for pattern, recipe in self.overrides:
            if any(matches(pattern, name) for name in place.names):
                return recipe if recipe is not None else f"overrides: {_shown(pattern)} is None"
        for name in place.names:
            reason = self._reason(place, name)
            if reason is not None:
                return reason
        return self.recipe

    def _reason(self, place: Place, name: str) -> str | None:
        for pattern in self.skip:
            if matches(pattern, name):
                return f"skip: {_shown(pattern)}"
        if self.filter_fn is not None and not self.filter_fn(place.layer, name):
            return "filter_fn said no"
        for prefix in self.kept:
            if name == prefix or name.startswith(prefix + "."):
                return f"keep_first, keep_last: {prefix} stays in high precision"
        part = next((part for part in name.split(".") if part.startswith(("lora_A", "lora_B"))), None)
        return None if part is None else f"{part}: an adapter, which stays in high precision"


def checked_overrides(
    overrides: Mapping[Any, str | Recipe | Mapping[str, Any] | None] | None, places: Sequence[Place]
) -> tuple[tuple[Pattern, Recipe | None], ...]:
    """Patterns with their recipes. ValueError for a pattern that names no layer, or only layers that cannot be
    converted; TypeError for what is no mapping."""
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(f"overrides: expected a mapping of patterns to recipes, got {type(overrides).__name__}")
    names = [name for place in places for name in place.names]
    found = []
    for pattern, recipe in (overrides or {}).items():
        check_pattern("overrides", pattern)
        chosen = [place for place in places if any(matches(pattern, name) for name in place.names)]
        if not chosen:
            near = get_close_matches(str(pattern), [*names, *{name.rpartition(".")[2] for name in names}], n=3)
            hint = f"; near: {', '.join(near)}" if near else f"; names: {', '.join(names[:5])}, …"
            raise ValueError(f"overrides: {_shown(pattern)} names no layer{hint}")
        reasons = [obstacle(place) for place in chosen]
        if recipe is not None and all(reasons):
            raise ValueError(f"overrides: {_shown(pattern)} cannot be converted: {chosen[0].names[0]}: {reasons[0]}")
        found.append((pattern, None if recipe is None else get_recipe(recipe)))
    return tuple(found)


def checked_skip(skip: Collection[Any]) -> tuple[Pattern, ...]:
    """The patterns; ValueError for one string, TypeError for what is no pattern."""
    if isinstance(skip, str):
        raise ValueError(f"skip: expected a collection of names, got the string {skip!r}; write ({skip!r},)")
    for pattern in skip:
        check_pattern("skip", pattern)
    return tuple(skip)


def check_pattern(argument: str, pattern: object) -> None:
    """TypeError for what is no pattern."""
    if not isinstance(pattern, str | re.Pattern):
        raise TypeError(f"{argument}: expected names, globs or compiled regular expressions, got {pattern!r}")


def _shown(pattern: Pattern) -> str:
    return repr(pattern if isinstance(pattern, str) else pattern.pattern)


def kept_blocks(model: nn.Module, first: int, last: int) -> Iterator[str]:
    """Names of the first and last of the model's repeated blocks.

    ValueError for negative numbers and where nothing is repeated.
    """
    for argument, count in (("keep_first", first), ("keep_last", last)):
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"{argument}: expected a number of blocks, 0 or more, got {count!r}")
    if first == last == 0:
        return
    names = _blocks(model)
    if not names:
        raise ValueError("keep_first, keep_last: the model has no nn.ModuleList of several blocks; use skip")
    yield from names[:first]
    yield from names[max(first, len(names) - last) :]


def has_blocks(model: nn.Module) -> bool:
    """Whether the model has blocks that `kept_blocks` could name."""
    return bool(_blocks(model))


def _blocks(model: nn.Module) -> list[str]:
    """Names of the repeated blocks: the entries, with layers in them, of the `nn.ModuleList` with the most parameters,
    or of such an `nn.Sequential` where there is no list."""
    lists: dict[type[nn.Module], list[tuple[int, list[str]]]] = {nn.ModuleList: [], nn.Sequential: []}
    for prefix, module in model.named_modules():
        for cls, found in lists.items():
            if isinstance(module, cls):
                blocks = {name: block for name, block in module.named_children() if layer_places(block)}
                size = sum(p.numel() for block in blocks.values() for p in block.parameters())
                if len(blocks) > 1:
                    found.append((size, [f"{prefix}.{name}" if prefix else name for name in blocks]))
    candidates = lists[nn.ModuleList] or lists[nn.Sequential]
    return max(candidates, key=lambda entry: entry[0])[1] if candidates else []
