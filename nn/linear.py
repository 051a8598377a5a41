"""`QuantLinear`: an `nn.Linear` whose three GEMMs follow a recipe."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narrowgauge.nn.matmul import QuantizedMatmul
from narrowgauge.nn.recipe import Recipe, get_recipe

STREAMS_PER_CALL = 8
"""Philox streams that one forward and backward may use (six slots)."""


class QuantLinear(nn.Linear):
    """Drop-in for `nn.Linear`: same parameters, same `state_dict`, input [..., in_features] → [..., out_features].

    The parameters stay in high precision; operands are quantised on the fly, forward and backward. Output and gradient
    dtypes are those of `nn.Linear` (autocast included). Recipes with stochastic rounding draw from `seed` and a call
    counter kept in the buffer `rounding_step`, so that a restored checkpoint continues with the same bits.
    """

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
        self.recipe = recipe
        self.seed = seed
        self._texts = recipe.texts
        if recipe.stochastic:
            self.register_buffer("rounding_step", torch.zeros((), dtype=torch.int64, device="cpu"))

    def _next_offset(self) -> int:
        if not self.recipe.stochastic:
            return 0
        step = int(self.rounding_step)
        self.rounding_step += 1
        return step * STREAMS_PER_CALL

    def forward(self, input: Tensor) -> Tensor:
        """Raises ValueError if the last axis is not `in_features`, TypeError for non-floating inputs."""
        if input.shape[-1] != self.in_features:
            raise ValueError(f"input: expected last axis {self.in_features}, got shape {tuple(input.shape)}")
        if not input.is_floating_point():
            raise TypeError(f"input: expected a floating dtype, got {input.dtype}")
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        if not self.recipe.quantized:
            return nn.functional.linear(input, self.weight, self.bias)
        x = input.reshape(-1, self.in_features)
        offset = self._next_offset()
        y: Tensor = QuantizedMatmul.apply(x, self.weight, self.bias, self._texts, self.seed, offset)  # type: ignore[no-untyped-call]
        return y.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={self.recipe.name}"
