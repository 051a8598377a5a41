"""Rows of `explain` for layers that `convert` did not make: codes for inference, and quantization-aware training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from narrowgauge.nn.inference import StoredWeight
from narrowgauge.nn.qat import QATLinear


def kept_rows(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """(qualified name, what a row says) of every such layer, once each; `gemms`: GEMM → (operands, how it runs)."""
    for name, layer in model.named_modules():
        if isinstance(layer, StoredWeight):
            yield name, _stored(layer)
        elif isinstance(layer, QATLinear):
            yield name, _trained(layer)


def _stored(layer: StoredWeight) -> dict[str, Any]:
    told = getattr(layer, "quantization", {})
    given, dtype = told.get("input"), str(layer.dtype).removeprefix("torch.")
    runs = f"weight decoded to {dtype}, then a matmul" if given is None else "codes times codes"
    size = layer.nbytes
    return {
        "shape": (layer.rows, layer.cols),
        "recipe": "codes",
        "gemms": {"fprop": (f"{given or 'none'} x {layer.scheme}", runs)},
        "weight_bytes": size,
        "code_bytes": size,
    }


def _trained(layer: QATLinear) -> dict[str, Any]:
    weight = layer.weight
    operands = f"{layer.activation_quantizer or 'none'} x {layer.weight_quantizer}"
    return {
        "shape": (layer.out_features, layer.in_features),
        "recipe": f"qat {layer.config.name}",
        "gemms": {"fprop": (operands, f"fake-quantised values, {weight.dtype} matmul".replace("torch.", ""))},
        "weight_bytes": weight.numel() * weight.element_size(),
    }
