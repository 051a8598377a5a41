"""Quantised modules: recipes, `QuantLinear`, the functions that convert, explain and revert a model; compressed
activations."""

from __future__ import annotations

from narrowgauge.nn.activations import (
    GELU,
    POLICIES,
    ActivationCompression,
    ActivationPolicy,
    LayerNorm,
    RMSNorm,
    SiLU,
    SwiGLU,
    compress_activations,
    get_policy,
)
from narrowgauge.nn.convert import convert, revert
from narrowgauge.nn.explain import Explanation, explain
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.probe import OperandProbe, probe_operands
from narrowgauge.nn.recipe import GEMMS, RECIPES, SLOTS, Recipe, get_recipe, recipe

__all__ = [
    "GELU",
    "GEMMS",
    "POLICIES",
    "RECIPES",
    "SLOTS",
    "ActivationCompression",
    "ActivationPolicy",
    "Explanation",
    "LayerNorm",
    "OperandProbe",
    "QuantLinear",
    "RMSNorm",
    "Recipe",
    "SiLU",
    "SwiGLU",
    "compress_activations",
    "convert",
    "explain",
    "get_policy",
    "get_recipe",
    "probe_operands",
    "recipe",
    "revert",
]
