"""Published linear layers as recipes, by name."""

from __future__ import annotations

from narrowgauge.nn.recipe import Recipe
from narrowgauge.nn.recipes import basic, custom, fixed_point, fp4, fp8, int4, integer, mx

FAMILIES = (
    basic,
    fp8,
    mx,
    fp4,
    custom,
    fixed_point,
    integer,
    int4,
)
RECIPES: dict[str, Recipe] = {r.name: r for family in FAMILIES for r in family.RECIPES}
"""Every recipe that ships, by name."""
