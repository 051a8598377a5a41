"""Quantised modules: recipes, `QuantLinear`, and the functions that convert, explain and revert a model."""

from __future__ import annotations

from narrowgauge.nn.convert import convert, revert
from narrowgauge.nn.explain import Explanation, explain
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.probe import OperandProbe, probe_operands
from narrowgauge.nn.recipe import GEMMS, RECIPES, SLOTS, Recipe, get_recipe, recipe

__all__ = [
    "GEMMS",
    "RECIPES",
    "SLOTS",
    "Explanation",
    "OperandProbe",
    "QuantLinear",
    "Recipe",
    "convert",
    "explain",
    "get_recipe",
    "probe_operands",
    "recipe",
    "revert",
]
