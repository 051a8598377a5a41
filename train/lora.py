"""Adapters in a run: low-rank adaptation as a method, and weights that are merged for a while.

The adapters themselves, ``y = base(x) + (α / r) · B A x``, are those of :mod:`narrowgauge.nn.adapters`
(LoRA, arXiv:2106.09685), around plain and quantised layers alike.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from narrowgauge.nn.adapters import LoRALinear, add_lora, merge_lora
from narrowgauge.nn.adapters.model import Target
from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.inference.replace import places_of, put
from narrowgauge.train.decoding import device_of
from narrowgauge.train.method import Method
from narrowgauge.train.rng import derive_seed, isolated


@contextlib.contextmanager
def merged_lora(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, the adapters of ``model`` are in the weights of plain layers; afterwards all is as before, to the bit.

    For sampling and evaluation without the adapters' extra products. The base weights are put back and not
    computed back, since ``W + Δ - Δ`` is not ``W`` in floating point: what is done to the merged weights inside is
    lost. Raises ``ValueError`` for a model without adapters, or one that is an adapter itself.
    """
    adapters: list[tuple[LoRALinear, dict[str, nn.Module]]] = places_of(model, lambda m: isinstance(m, LoRALinear))
    weights = [None if isinstance(a.base, InferenceLinear) else a.base.get_parameter("weight") for a, _ in adapters]
    trainable = [[p.requires_grad for p in adapter.base.parameters()] for adapter, _ in adapters]
    try:
        merge_lora(model)
        yield model
    finally:
        for (adapter, places), weight, flags in zip(adapters, weights, trainable, strict=True):
            _put_back(adapter, places)
            if weight is not None:
                adapter.base.register_parameter("weight", weight)
            for parameter, flag in zip(adapter.base.parameters(), flags, strict=True):
                parameter.requires_grad_(flag)
        match_fast_paths(model)


def _put_back(adapter: LoRALinear, places: dict[str, nn.Module]) -> None:
    name, parent = next(iter(places.items()))
    merged = parent.get_submodule(name.rpartition(".")[2])
    if merged is not adapter:  # merging may have failed before it came here
        put(merged, adapter, places)


@dataclass(eq=False)
class LoRA(Method):
    """Trains adapters instead of the model; arguments as in :func:`narrowgauge.nn.adapters.add_lora`.

    ``target``: ``fn(module, name) -> bool`` or patterns. ``seed``: of the adapters' first values. The trainer needs a
    function groups → optimizer. A model that has adapters already keeps those (a later phase of a run).
    """

    name: ClassVar[str] = "lora"

    rank: int = 8
    alpha: float = 16.0
    target: Target | None = None
    base: str | None = None
    seed: int = 0

    def surgery(self, model: nn.Module) -> tuple[nn.Module, dict[str, str] | None]:
        """Add the adapters; the bases' parameters get ``.base`` into their names."""
        if any(isinstance(module, LoRALinear) for module in model.modules()):
            return model, None
        before = set(model.state_dict())
        with isolated(device_of(model), derive_seed(self.seed, "lora")):
            add_lora(model, self.rank, self.alpha, self.target, self.base)
        after = model.state_dict()
        renamed = {f"{name}.{part}": f"{name}.base.{part}" for name, part in _parts_of_bases(model)}
        return model, {old: new for old, new in renamed.items() if old in before and new in after}


def _parts_of_bases(model: nn.Module) -> list[tuple[str, str]]:
    return [
        (name, part)
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
        for part in module.base.state_dict()
    ]
