"""The weight of a layer under a recipe as its forward pass makes it, and what that pass does beside.

A stateful scale is what it is now. Another scheme may stand in the place of the recipe's for weights; the map of the
weight, and a rotation that both operands have, stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.operand import OperandScheme, draws_anew
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.inference.coded import How
from narrowgauge.nn.inference.parts import check_values
from narrowgauge.nn.layer import mapped_weight
from narrowgauge.nn.operand import Operand, make_operand
from narrowgauge.nn.recipe import Recipe
from narrowgauge.nn.scaling import parse_scaling


class RecipeWeight(NamedTuple):
    """codes [N, cols], scale and outer as `StoredWeight.fill` takes them; how: the product."""

    codes: Tensor
    scale: Tensor
    outer: Tensor | None
    how: How


def recipe_with(recipe: Recipe, weight: str | Scheme | None) -> Recipe:
    """The recipe with another scheme for weights, None for its own. ValueError for a scheme that its input cannot have
    beside it."""
    if weight is None:
        return recipe
    rotation = recipe.x_fprop.rotation if isinstance(recipe.x_fprop, OperandScheme) else None
    scheme = parse(weight)
    return replace(recipe, w_fprop=scheme if rotation is None else OperandScheme(scheme, (rotation,)))


@torch.no_grad()
def recipe_weight(layer: Any, weight: str | Scheme | None, groups: int = 1) -> RecipeWeight:
    """Of a layer under a recipe: its matrix [N, K], in so many groups of rows, each quantised by itself.

    ValueError for recipes whose forward pass draws at random, maps its input, reads a scale of it that no step has
    given yet, or leaves no codes of the weight, and for a layer on the meta device.
    """
    check_values(layer.weight)
    recipe = recipe_with(layer.recipe, weight)
    _check(recipe)
    input_scale = layer.upcoming()["x_fprop"][1]
    if input_scale is None and not _first_scale_is_plain(recipe.stateful.get("x_fprop")):
        raise ValueError(
            f"layer: x_fprop={recipe.x_fprop} of recipe {recipe.name!r} has no scale before a step in training mode"
        )
    matrix = layer.weight_matrix() if hasattr(layer, "weight_matrix") else layer.weight
    kept = mapped_weight(layer, matrix).detach()
    given = layer.scales["w_fprop"].peek(kept) if "w_fprop" in recipe.stateful else None
    made = [_coded(make_operand(part, recipe.texts[1], Draw(), given), recipe) for part in kept.chunk(groups)]
    scheme = made[0].scheme
    assert scheme is not None  # `_coded` has refused others
    outers = [operand.outer for operand in made if operand.outer is not None]
    outer = (outers[0] if groups == 1 else torch.stack(outers)) if parse(scheme).two_level else None
    return RecipeWeight(
        torch.cat([operand.values for operand in made]),
        torch.cat([operand.scale for operand in made if operand.scale is not None]),
        outer,
        How(scheme, made[0].values.shape[1], made[0].gain, recipe.texts[0], input_scale, recipe.accumulate,
            recipe.plan.outputs[0]),
    )  # fmt: skip


def _first_scale_is_plain(scaling: str | None) -> bool:
    """Whether a stateful rule without a past gives each tensor the scale that its scheme alone gives it."""
    if scaling is None:
        return True
    rule = parse_scaling(scaling)
    return rule.kind in ("delayed", "hindsight") and rule.margin == 0


def _check(recipe: Recipe) -> None:
    """ValueError for a forward pass that codes cannot repeat."""
    if recipe.input_map is not None:
        raise ValueError(f"layer: recipe {recipe.name!r} maps its input by {recipe.input_map!r}, which is not kept")
    for slot in ("x_fprop", "w_fprop", "out_fprop"):
        spec = getattr(recipe, slot)
        if spec is not None and draws_anew(spec):
            raise ValueError(f"layer: {slot}={spec} of recipe {recipe.name!r} draws anew in every forward pass")
    if recipe.accumulate is not None and "+sr" in recipe.accumulate:
        raise ValueError(f"layer: accumulator {recipe.accumulate!r} of recipe {recipe.name!r} rounds at random")


def _coded(operand: Operand, recipe: Recipe) -> Operand:
    if operand.scheme is None or operand.scale is None or operand.outer is None:
        raise ValueError(f"layer: w_fprop={recipe.texts[1]} of recipe {recipe.name!r} leaves no codes of the weight")
    return operand
