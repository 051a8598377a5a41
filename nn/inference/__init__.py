"""Layers for inference: weights kept as codes, decoded in the product or multiplied as codes."""

from __future__ import annotations

from narrowgauge.nn.inference.conv import InferenceConv
from narrowgauge.nn.inference.convert import quantize_for_inference
from narrowgauge.nn.inference.embedding import InferenceEmbedding
from narrowgauge.nn.inference.linear import InferenceLinear
from narrowgauge.nn.inference.stored import StoredWeight

__all__ = ["InferenceConv", "InferenceEmbedding", "InferenceLinear", "StoredWeight", "quantize_for_inference"]
