"""Compressed activations: modules that keep their inputs as codes, and a hook for what any model saves."""

from __future__ import annotations

from narrowgauge.nn.activations.compress import ActivationCompression, compress_activations
from narrowgauge.nn.activations.group_scaling import evaluate_with_amax, quantize_with_amax
from narrowgauge.nn.activations.modules import GELU, LayerNorm, RMSNorm, SiLU, SwiGLU
from narrowgauge.nn.activations.policy import POLICIES, ActivationPolicy, get_policy
from narrowgauge.nn.activations.report import SavedReport, SavedRow

__all__ = [
    "GELU",
    "POLICIES",
    "ActivationCompression",
    "ActivationPolicy",
    "LayerNorm",
    "RMSNorm",
    "SavedReport",
    "SavedRow",
    "SiLU",
    "SwiGLU",
    "compress_activations",
    "evaluate_with_amax",
    "get_policy",
    "quantize_with_amax",
]
