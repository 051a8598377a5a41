"""Which layers can be quantised, and what each becomes.

A kind is recognised by its exact class: a subclass may have a forward of its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from narrowgauge.nn.conv import QuantConv1d, QuantConv2d
from narrowgauge.nn.embedding import QuantEmbedding
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.transposed_linear import CLASS, QuantTransposedLinear

LAYERS = ("linear", "conv", "embedding")
"""What `convert(layers=…)` accepts."""


@dataclass(frozen=True)
class LayerKind:
    """layer: its name in `LAYERS`. plain: module and name of the class it replaces, so that nothing is imported for it.
    quantised: what it becomes. make(plain_layer, recipe, seed=…): a quantised layer that shares the parameters.
    sizes(layer): outputs and inputs of its products, [N, K], of a table its rows and columns. smallest: arguments of
    the plain class for a small layer. has_tokens: whether the input is [..., K], whose rows are tokens.
    """

    layer: str
    plain: tuple[str, str]
    quantised: type[nn.Module]
    make: Callable[..., nn.Module]
    sizes: Callable[[Any], tuple[int, int]]
    smallest: tuple[int, ...] = (1, 1)
    has_tokens: bool = True

    def plain_class(self) -> type[nn.Module]:
        """The class itself. ValueError if its module was never imported."""
        module, name = self.plain
        if module not in sys.modules:
            raise ValueError(f"a {self.quantised.__name__} becomes a {module}.{name}, which is not imported")
        found: type[nn.Module] = getattr(sys.modules[module], name)
        return found


def _path(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _of_conv(layer: Any) -> tuple[int, int]:
    """Channels out, and what makes one of them: channels in of its group, times the kernel."""
    kernel: int = math.prod(layer.kernel_size)
    return layer.out_channels, layer.in_channels // layer.groups * kernel


KINDS = (
    LayerKind(
        "linear",
        _path(nn.Linear),
        QuantLinear,
        QuantLinear.from_linear,
        lambda layer: (layer.out_features, layer.in_features),
    ),
    LayerKind(
        "linear",
        CLASS,
        QuantTransposedLinear,
        QuantTransposedLinear.from_conv1d,
        lambda layer: (layer.weight.shape[1], layer.weight.shape[0]),
    ),
    *(
        LayerKind("conv", _path(plain), quantised, quantised.from_conv, _of_conv, (1, 1, 1), has_tokens=False)
        for plain, quantised in ((nn.Conv1d, QuantConv1d), (nn.Conv2d, QuantConv2d))
    ),
    LayerKind(
        "embedding",
        _path(nn.Embedding),
        QuantEmbedding,
        QuantEmbedding.from_embedding,
        lambda layer: (layer.num_embeddings, layer.embedding_dim),
        has_tokens=False,
    ),
)
_BY_PLAIN = {kind.plain: kind for kind in KINDS}
_BY_QUANTISED = {kind.quantised: kind for kind in KINDS}
QUANTISED = tuple(_BY_QUANTISED)
"""The classes of quantised layers."""


def plain_kind(layer: nn.Module) -> LayerKind | None:
    """The kind that `layer` is a plain example of."""
    return _BY_PLAIN.get(_path(type(layer)))


def quantised_kind(layer: nn.Module) -> LayerKind | None:
    """The kind that `layer` is a quantised example of."""
    return _BY_QUANTISED.get(type(layer))


def nearest_kind(layer: nn.Module) -> LayerKind | None:
    """The kind of the layer or of the class it was derived from."""
    for cls in type(layer).__mro__:
        kind = _BY_QUANTISED.get(cls) or _BY_PLAIN.get(_path(cls))
        if kind is not None:
            return kind
    return None
