"""Recipes without a publication of their own, and high precision."""

from __future__ import annotations

from narrowgauge.nn.recipe import Recipe, recipe

RECIPES = (
    Recipe(name="fp32", source="identity: every GEMM in the precision of its inputs"),
    recipe("rf8", "RF8 (arXiv 2506.00486v2) in all six slots; the paper: weights, after training", every="rf8/row"),
)  # fmt: skip
