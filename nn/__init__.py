"""Quantised modules: recipes and the layers under them, quantization-aware training, layers for inference, adapters,
compressed activations, files; the functions that convert, explain and revert a model."""

from __future__ import annotations

from narrowgauge.formats.slots import GEMMS, SLOTS
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
from narrowgauge.nn.adapters import (
    LoRALinear,
    add_lora,
    load_lora_state_dict,
    lora_parameters,
    lora_state_dict,
    merge_lora,
)
from narrowgauge.nn.conv import QuantConv1d, QuantConv2d
from narrowgauge.nn.convert import convert, revert
from narrowgauge.nn.embedding import QuantEmbedding
from narrowgauge.nn.explain import Explanation, explain
from narrowgauge.nn.files import Description, describe, export, load, load_tensors, save_tensors
from narrowgauge.nn.grid_weights import GridWeights
from narrowgauge.nn.inference import InferenceConv, InferenceEmbedding, InferenceLinear, quantize_for_inference
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.probe import OperandProbe, probe_operands
from narrowgauge.nn.qat import (
    QAT,
    OscillationMonitor,
    QATConfig,
    QATLinear,
    freeze_qat,
    prepare_qat,
    revert_qat,
)
from narrowgauge.nn.ramping import QRamping
from narrowgauge.nn.range_norm import RangeBatchNorm
from narrowgauge.nn.recipe import Recipe, get_recipe, load_recipe, recipe
from narrowgauge.nn.recipes import RECIPES
from narrowgauge.nn.smooth_swiglu import SmoothSwiGLU, smoothed
from narrowgauge.nn.transposed_linear import QuantTransposedLinear

__all__ = [
    "GELU",
    "GEMMS",
    "POLICIES",
    "QAT",
    "RECIPES",
    "SLOTS",
    "ActivationCompression",
    "ActivationPolicy",
    "Description",
    "Explanation",
    "GridWeights",
    "InferenceConv",
    "InferenceEmbedding",
    "InferenceLinear",
    "LayerNorm",
    "LoRALinear",
    "OperandProbe",
    "OscillationMonitor",
    "QATConfig",
    "QATLinear",
    "QRamping",
    "QuantConv1d",
    "QuantConv2d",
    "QuantEmbedding",
    "QuantLinear",
    "QuantTransposedLinear",
    "RMSNorm",
    "RangeBatchNorm",
    "Recipe",
    "SiLU",
    "SmoothSwiGLU",
    "SwiGLU",
    "add_lora",
    "compress_activations",
    "convert",
    "describe",
    "explain",
    "export",
    "freeze_qat",
    "get_policy",
    "get_recipe",
    "load",
    "load_lora_state_dict",
    "load_recipe",
    "load_tensors",
    "lora_parameters",
    "lora_state_dict",
    "merge_lora",
    "prepare_qat",
    "probe_operands",
    "quantize_for_inference",
    "recipe",
    "revert",
    "revert_qat",
    "save_tensors",
    "smoothed",
]
