"""`QuantLinear`: an `nn.Linear` whose three GEMMs follow a recipe."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from narrowgauge.formats.stages import Draw
from narrowgauge.nn.layer import install_recipe, mapped_weight, quantized_linear, upcoming
from narrowgauge.nn.layer_input import check_features, in_autocast_dtype
from narrowgauge.nn.recipe import Recipe, get_recipe


class QuantLinear(nn.Linear):
    """Drop-in for `nn.Linear`: same parameters, same `state_dict`, input [..., in_features] → [..., out_features].

    The parameters stay in high precision; operands are quantised on the fly, forward and backward. Output and gradient
    dtypes are those of `nn.Linear` (autocast included). Recipes with stochastic rounding draw from `seed` and a call
    counter kept in the buffer `rounding_step`, so that a restored checkpoint continues with the same bits. A forward
    that activation checkpointing runs again draws and scales as its first run did, and evaluation mode moves neither
    the counter nor stateful scales. Under torch.compile a layer is part of one graph, with the bits of eager calls.
    """

    recipe: Recipe
    rounding_step: Tensor
    _quantized: bool

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
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._set_recipe(get_recipe(recipe), seed)

    @classmethod
    def from_linear(cls, linear: nn.Linear, recipe: str | Recipe = "fp8_row", *, seed: int = 0) -> QuantLinear:
        """A QuantLinear that shares the parameters of `linear`."""
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new.in_features, new.out_features = linear.in_features, linear.out_features
        new.weight, new.bias = linear.weight, linear.bias
        new._set_recipe(get_recipe(recipe), seed)
        new.train(linear.training)
        return new

    def _set_recipe(self, recipe: Recipe, seed: int) -> None:
        self.seed = seed
        install_recipe(self, recipe)

    def forward(self, input: Tensor) -> Tensor:
        """Raises ValueError if the last axis is not `in_features`, TypeError for non-floating inputs."""
        check_features(input, self.in_features)
        input = in_autocast_dtype(input)
        if not self._quantized:
            return nn.functional.linear(input, self.weight, self.bias)
        y = quantized_linear(self, input.reshape(-1, self.in_features), self.weight, self.bias)
        return y.view(*input.shape[:-1], self.out_features)

    def upcoming(self) -> dict[str, tuple[Draw, float | None]]:
        """Of the next call each slot's random streams, and its scale where a stateful rule knows it already."""
        return upcoming(self)

    @torch.no_grad()
    def without_maps(self) -> QuantLinear:
        """The layer behind the maps of its recipe: a copy that holds the mapped weight, under the recipe without them.
        Its three products are what the recipe's slots say of its own weight and input."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(mapped_weight(self, self.weight).detach().clone())
        plain.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return QuantLinear.from_linear(plain, replace(self.recipe, weight_map=None, input_map=None), seed=self.seed)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={self.recipe.name}"
