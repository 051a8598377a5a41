"""`QuantTransposedLinear`: a linear layer that keeps its weight as [K, N], under a recipe.

GPT-2 of `transformers` is built of such layers (`transformers.pytorch_utils.Conv1D`, after the code that OpenAI
published): y = x · W + b with W [in, out]. The recipe's slots see Wᵀ [out, in], so that "row" and "1xG" run along the
reduction axis as in `QuantLinear`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats.stages import Draw
from narrowgauge.nn.layer import install_recipe, quantized_linear, upcoming
from narrowgauge.nn.layer_input import as_rows
from narrowgauge.nn.recipe import Recipe, get_recipe

CLASS = ("transformers.pytorch_utils", "Conv1D")
"""Module and name of the class that this one stands in for; nothing is imported for it."""


def is_transposed_linear(layer: nn.Module) -> bool:
    """Whether `layer` is exactly transformers' Conv1D, or a QuantTransposedLinear."""
    cls = type(layer)
    return cls is QuantTransposedLinear or (cls.__module__, cls.__qualname__) == CLASS


class QuantTransposedLinear(nn.Module):
    """Input [..., in_features] → [..., out_features]; parameters weight [in_features, out_features] and bias
    [out_features], in high precision, with the names and shapes of transformers' Conv1D.

    Operands are quantised on the fly in all three products. See `QuantLinear` for dtypes and random streams.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    recipe: Recipe
    rounding_step: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        recipe: str | Recipe = "fp8_row",
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.nx, self.nf, self.seed = in_features, out_features, seed
        self.weight = nn.Parameter(torch.empty(in_features, out_features, device=device, dtype=dtype))
        # GPT-2's initialisation.
        nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        install_recipe(self, get_recipe(recipe))

    @classmethod
    def from_conv1d(cls, layer: nn.Module, recipe: str | Recipe = "fp8_row", *, seed: int = 0) -> QuantTransposedLinear:
        """A layer that shares the parameters of `layer`, a Conv1D of transformers or a QuantTransposedLinear.

        TypeError for other classes, recognised by name.
        """
        if not is_transposed_linear(layer):
            raise TypeError(
                f"layer: expected {'.'.join(CLASS)}, got {type(layer).__module__}.{type(layer).__qualname__}"
            )
        given: Any = layer
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new.nx, new.nf, new.seed = given.weight.shape[0], given.nf, seed
        new.weight, new.bias = given.weight, given.bias
        install_recipe(new, get_recipe(recipe))
        new.train(layer.training)
        return new

    @property
    def in_features(self) -> int:
        """Length of the input's last axis."""
        return self.nx

    @property
    def out_features(self) -> int:
        """Length of the output's last axis."""
        return self.nf

    def weight_matrix(self) -> Tensor:
        """Wᵀ [out_features, in_features], whose rows the slot w_fprop sees."""
        return self.weight.t()

    def forward(self, input: Tensor) -> Tensor:
        """Raises ValueError if the last axis is not `in_features`, TypeError for non-floating inputs."""
        x = as_rows(input, self.nx)
        if self.recipe.quantized:
            y = quantized_linear(self, x, self.weight_matrix(), self.bias)
        else:
            y = nn.functional.linear(x, self.weight_matrix(), self.bias)
        return y.view(*input.shape[:-1], self.nf)

    def upcoming(self) -> dict[str, tuple[Draw, float | None]]:
        """Of the next call each slot's random streams, and its scale where a stateful rule knows it already."""
        return upcoming(self)

    def extra_repr(self) -> str:
        """nf, nx as Conv1D has them, and the recipe."""
        return f"nf={self.nf}, nx={self.nx}, recipe={self.recipe.name}"
