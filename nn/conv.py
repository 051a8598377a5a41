"""`QuantConv1d` and `QuantConv2d`: convolutions as three matrix products that follow a recipe.

    X' [B·L, C·k]   the patches of the input, one row for each of the L places of the output in each of B images
    W' [N, C·k]     the weight, flattened          Y = X'·W'ᵀ + b      dX' = dY·W'      dW' = dYᵀ·X'

The slots of the recipe see these matrices: "row" of x_fprop is a patch, of w_fprop all that makes one output channel,
and wgrad reduces over batch and places. dX adds up the overlapping patches of dX', in high precision. Groups are
products of their own, with C / groups input and N / groups output channels, and scales of their own; a map of the
weight sees it whole.

The patches hold every input up to k times: the saved copy of the input, codes, is that much larger than the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from narrowgauge.formats.stages import Draw
from narrowgauge.nn.layer import install_recipe, mapped_weight, quantized_linear, upcoming
from narrowgauge.nn.layer_input import check_floating, in_autocast_dtype
from narrowgauge.nn.recipe import Recipe, get_recipe

GROUP_SEED = 1 << 32
"""Distance between the seeds of the groups of a layer."""
GEOMETRY = (*_ConvNd.__constants__, "transposed", "_reversed_padding_repeated_twice")
"""The attributes of a convolution beside its parameters."""


class _UnderRecipe(_ConvNd):
    """What both classes add to the plain convolution, which comes behind this one among their bases."""

    PLAIN: ClassVar[type[_ConvNd]]
    recipe: Recipe
    seed: int
    rounding_step: Tensor

    def __init__(self, *args: Any, recipe: str | Recipe = "fp8_row", seed: int = 0, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._set_recipe(get_recipe(recipe), seed)

    @classmethod
    def from_conv(cls, conv: _ConvNd, recipe: str | Recipe = "fp8_row", *, seed: int = 0) -> Self:
        """A layer that shares the parameters of `conv`, a plain convolution over as many axes or one of this class.

        TypeError for others, ValueError for stateful scales and several groups.
        """
        if not isinstance(conv, cls.PLAIN):
            raise TypeError(f"conv: expected {cls.PLAIN.__name__}, got {type(conv).__name__}")
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        for name in GEOMETRY:
            new.__dict__[name] = conv.__dict__[name]
        new.weight, new.bias = conv.weight, conv.bias
        new._set_recipe(get_recipe(recipe), seed)
        new.train(conv.training)
        return new

    def _set_recipe(self, recipe: Recipe, seed: int) -> None:
        if recipe.stateful and self.groups > 1:
            raise ValueError(f"recipe: {recipe.name!r} has stateful scales, of whole tensors, got groups={self.groups}")
        self.seed = seed
        install_recipe(self, recipe)

    def weight_matrix(self) -> Tensor:
        """W' [N, C·k], whose rows the slot w_fprop sees."""
        return self.weight.flatten(1)

    def forward(self, input: Tensor) -> Tensor:
        """As the plain class; ValueError for other channels, TypeError for inputs that are not floating."""
        input = checked_input(self, input)
        if self.recipe.quantized:
            return convolved(self, input, self._product)
        plain: Any = self
        result: Tensor = plain._conv_forward(input, self.weight, self.bias)
        return result

    def _product(self, rows: Tensor) -> Tensor:
        """X' [B·L, C·k] → Y [B·L, N]."""
        if self.groups == 1:
            return quantized_linear(self, rows, self.weight_matrix(), self.bias)
        weight = mapped_weight(self, self.weight_matrix())
        each, views = self.out_channels // self.groups, [_Group(self, group) for group in range(self.groups)]
        outputs = []
        for group, (view, x) in enumerate(zip(views, rows.chunk(self.groups, dim=1), strict=True)):
            part = slice(group * each, (group + 1) * each)
            bias = None if self.bias is None else self.bias[part]
            outputs.append(quantized_linear(view, x, weight[part], bias))
        return torch.cat(outputs, dim=1)

    def upcoming(self) -> dict[str, tuple[Draw, float | None]]:
        """Of the next call each slot's random streams, and its scale where a stateful rule knows it already."""
        return upcoming(self)

    def extra_repr(self) -> str:
        """That of the plain class, and the recipe."""
        return f"{super().extra_repr()}, recipe={self.recipe.name}"  # type: ignore[no-untyped-call]


class QuantConv1d(_UnderRecipe, nn.Conv1d):
    """Drop-in for `nn.Conv1d`: arguments, parameters, `state_dict`, input [B, C, L] or [C, L], dtypes.

    Parameters stay in high precision, operands are quantised on the fly; see `QuantLinear` for random streams.
    """

    PLAIN = nn.Conv1d


class QuantConv2d(_UnderRecipe, nn.Conv2d):
    """Drop-in for `nn.Conv2d`: arguments, parameters, `state_dict`, input [B, C, H, W] or [C, H, W], dtypes.

    Parameters stay in high precision, operands are quantised on the fly; see `QuantLinear` for random streams.
    """

    PLAIN = nn.Conv2d


class _Group:
    """The layer as one of its groups, whose weight is mapped already: streams of its own, in a call with the number of
    the first group's, which moves the layer's counter."""

    rounding_step: Tensor

    def __init__(self, layer: Any, group: int) -> None:
        self._layer = layer
        self._modules = {name: module for name, module in layer._modules.items() if name != "weight_map"}
        self.seed = layer.seed + group * GROUP_SEED
        if layer.recipe.stochastic:
            self.rounding_step = layer.rounding_step.clone() if group else layer.rounding_step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def checked_input(layer: Any, input: Tensor) -> Tensor:
    """An input that a convolution takes, in the dtype of autocast. ValueError for other channels, TypeError for inputs
    that are not floating."""
    axes = len(layer.kernel_size)
    if input.dim() not in (axes + 1, axes + 2) or input.shape[-axes - 1] != layer.in_channels:
        raise ValueError(
            f"input: expected {axes + 2} axes (or {axes + 1} without a batch), {layer.in_channels} channels, "
            f"got shape {tuple(input.shape)}"
        )
    check_floating(input)
    return in_autocast_dtype(input)


def convolved(layer: Any, input: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """The output of a convolution for [B, C, …] or [C, …]. product: X' [B·L, C·k] → Y [B·L, N]."""
    axes = len(layer.kernel_size)
    x = input if input.dim() == axes + 2 else input.unsqueeze(0)
    rows, places = _patches(layer, x)
    y = product(rows).view(x.shape[0], *places, layer.out_channels).movedim(-1, 1).contiguous()
    return y if input.dim() == axes + 2 else y.squeeze(0)


def _patches(layer: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(patches [B·L, C·k], the axes of L) of the input [B, C, …], padded here. Columns run over channels, then over the
    kernel's places, like those of a flattened weight."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    places = tuple(
        (size - step * (side - 1) - 1) // hop + 1
        for size, side, hop, step in zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    )
    if min(places) < 1:
        raise ValueError(f"input: shape {tuple(x.shape)}, padded, is smaller than the kernel {layer.kernel_size}")
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if len(kernel) == 1:
        # One axis is two, the first of which has length 1.
        x, kernel, stride, dilation = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    columns = F.unfold(x, kernel, dilation=dilation, stride=stride).transpose(1, 2)
    return columns.reshape(columns.shape[0] * columns.shape[1], columns.shape[2]), places
