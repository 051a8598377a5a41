"""What a layer that trains under a recipe becomes when its weight is kept as codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.conv import QuantConv1d, QuantConv2d
from narrowgauge.nn.embedding import QuantEmbedding
from narrowgauge.nn.inference.conv import InferenceConv
from narrowgauge.nn.inference.embedding import InferenceEmbedding
from narrowgauge.nn.inference.linear import InferenceLinear
from narrowgauge.nn.inference.stored import StoredWeight
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.transposed_linear import QuantTransposedLinear

_FORMS: dict[type[nn.Module], Callable[..., StoredWeight]] = {
    QuantLinear: InferenceLinear.from_quant_linear,
    QuantTransposedLinear: InferenceLinear.from_quant_linear,
    QuantConv1d: InferenceConv.from_quant_conv,
    QuantConv2d: InferenceConv.from_quant_conv,
    QuantEmbedding: InferenceEmbedding.from_quant_embedding,
}


def has_form(layer: nn.Module) -> bool:
    """Whether layers of this class have a form of codes."""
    return type(layer) in _FORMS


def form_of(layer: nn.Module, weight: str | Scheme | None = None) -> StoredWeight:
    """The layer as its recipe's forward pass runs it, to the bit. weight: a scheme in the place of the recipe's.

    ValueError for recipes whose forward pass codes cannot repeat, see `recipe_weight`.
    """
    given: Any = layer
    return _FORMS[type(layer)](given, weight)
