"""What every layer under a recipe has: its plan, maps, stateful scales and the counter of its random streams.

`install_recipe` puts them on a module, `quantized_linear` uses them; linear layers, convolutions and transposed layers
share both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats.slots import SLOTS
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.calls import PLAIN, STREAMS_PER_CALL, LayerCalls, in_backward, slot_draw
from narrowgauge.nn.maps import Map, parse_map
from narrowgauge.nn.matmul import AnyCall, QuantizedMatmul, Rules, product_without_gradient
from narrowgauge.nn.recipe import Recipe
from narrowgauge.nn.scaling import ScaleState
from narrowgauge.nn.traced_calls import traced_call

__all__ = ["in_backward", "install_recipe", "mapped_weight", "quantized_linear", "upcoming"]

PARTS = ("weight_map", "input_map", "scales")


def install_recipe(layer: Any, recipe: Recipe) -> None:
    """Makes `recipe` the layer's own; `layer.weight` and `layer.seed` are there already, and `layer.weight_matrix()`
    where its products see the weight as another matrix. Maps, scales and the counter of an earlier recipe go."""
    for part in PARTS:
        layer._modules.pop(part, None)
    layer._buffers.pop("rounding_step", None)
    layer.recipe, layer._plan = recipe, recipe.plan
    # Asked for in every forward: properties of the recipe, worked out once.
    layer._quantized, layer._draws = recipe.quantized, recipe.stochastic
    layer._calls = LayerCalls() if recipe.stochastic or recipe.stateful else None
    layer._seed = torch.tensor(layer.seed, device="cpu")
    if recipe.weight_map is not None:
        layer.weight_map = parse_map(recipe.weight_map)
        matrix = getattr(layer, "weight_matrix", None)
        layer.weight_map.prepare(layer.weight if matrix is None else matrix(), recipe.texts[1])
    if recipe.input_map is not None:
        layer.input_map = parse_map(recipe.input_map)
    if recipe.stateful:
        layer.scales = nn.ModuleDict(
            {
                slot: ScaleState(rule, recipe.slots[slot].scheme.element, device=layer.weight.device)  # type: ignore[union-attr]
                for slot, rule in recipe.stateful.items()
            }
        )
    if recipe.stochastic:
        layer.register_buffer("rounding_step", torch.zeros((), dtype=torch.int64, device="cpu"))


def mapped_weight(layer: Any, weight: Tensor) -> Tensor:
    """The weight as it is quantised."""
    chosen: Map | None = layer._modules.get("weight_map")
    return weight if chosen is None else chosen(weight)


def quantized_linear(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, K] · weight [N, K]ᵀ + bias under the layer's recipe; [T, N]."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        # The recipe says in which precision its products run.
        with torch.autocast(kind, enabled=False):
            return quantized_linear(layer, x, weight, bias)
    modules = layer._modules
    if "input_map" in modules:
        x = modules["input_map"](x)
    weight = mapped_weight(layer, weight)
    scalers = dict(modules["scales"].items()) if "scales" in modules else None
    rules = Rules(layer._plan, _call(layer, x), scalers)
    # A scale of the copy for backward sees X even if no backward comes now: a checkpointed part runs without gradients.
    if not torch.is_grad_enabled() and not (layer.training and scalers is not None and SLOTS[5] in scalers):
        return product_without_gradient(x, weight, bias, rules)
    y: Tensor = QuantizedMatmul.apply(x, weight, bias, rules)  # type: ignore[no-untyped-call]
    return y


def _call(layer: Any, x: Tensor) -> AnyCall:
    """The call that a forward with input x belongs to."""
    if torch.compiler.is_compiling():
        return traced_call(layer, x)
    calls: LayerCalls | None = layer._calls
    if calls is None:
        return PLAIN
    return calls.begin(x, layer.seed, layer.rounding_step if layer._draws else None, layer.training)


def upcoming(layer: Any) -> dict[str, tuple[Draw, float | None]]:
    """Of the next call each slot's random streams, and its scale where a stateful rule knows it already."""
    offset = int(layer.rounding_step) * STREAMS_PER_CALL if layer._draws else 0
    states = layer._modules.get("scales") or {}
    told = {}
    for index, slot in enumerate(SLOTS):
        scale = states[slot].upcoming() if slot in states else None
        told[slot] = slot_draw(layer.seed, offset, index), None if scale is None else float(scale)
    return told
