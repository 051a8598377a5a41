"""`InferenceConv`: a convolution whose weight is frozen and kept as codes, as the forward pass of a recipe runs it.

    X' [B·L, C·k]  the patches of the input, quantised in every call        Y = X'·W'ᵀ + b

W' [N, C·k] is the flattened weight (nn/conv.py). Groups are products of their own, of codes with their own scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.conv import GEOMETRY, QuantConv1d, QuantConv2d, checked_input, convolved
from narrowgauge.nn.inference.coded import How, coded_linear
from narrowgauge.nn.inference.recipe_weight import recipe_weight
from narrowgauge.nn.inference.stored import StoredWeight, as_dtype
from narrowgauge.nn.restorable import Encoded

PLAIN: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
"""The plain classes by the number of axes that they go along."""


class InferenceConv(StoredWeight):
    """Input [B, C, L] or [B, C, H, W] (or without a batch) in any floating dtype → the output of the convolution in
    that dtype (under autocast, its dtype).

    The weight is frozen: `codes`, `scale` … and `bias` are buffers; gradients flow to the input alone, past its
    quantisation. kernel_size: as many numbers as the convolution has axes, 1 or 2; stride, padding, dilation, groups,
    padding_mode: as `nn.Conv2d` takes them. `from_quant_conv` fills a layer; a new one holds zeros.

    weight: scheme of the matrix [out_channels, C·k], for each group by itself. gain, input, input_scale, accumulate,
    output: what a recipe does beside that, see `How`. ValueError for sizes that `nn.Conv2d` refuses.
    """

    bias: Tensor | None
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        weight: str = "int8/row",
        *,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        columns: int | None = None,
        input: str | None = None,
        gain: float = 1.0,
        input_scale: float | None = None,
        accumulate: str | None = None,
        output: str | None = None,
        bias: bool = True,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        sizes = tuple(kernel_size)
        if len(sizes) not in PLAIN:
            raise ValueError(f"kernel_size: expected 1 or 2 numbers, got {list(sizes)}")
        like = PLAIN[len(sizes)](
            in_channels, out_channels, sizes, _tuple(stride), _tuple(padding), _tuple(dilation), groups, bias=False,
            padding_mode=padding_mode, device="meta",
        )  # fmt: skip
        features = in_channels // groups * math.prod(sizes)
        kept = as_dtype(dtype)
        super().__init__(
            out_channels, features if columns is None else columns, weight, dtype=kept, device=device, groups=groups
        )
        for name in GEOMETRY:
            self.__dict__[name] = like.__dict__[name]
        self.how = How(self.scheme, self.cols, gain, input, input_scale, accumulate, output)
        self.register_buffer("bias", torch.zeros(out_channels, dtype=kept, device=device) if bias else None)

    @classmethod
    def from_quant_conv(cls, layer: QuantConv1d | QuantConv2d, weight: str | Scheme | None = None) -> InferenceConv:
        """The layer as its recipe's forward pass runs it, bit for bit; stateful scales stay as they are now. weight:
        another scheme in the place of the recipe's.

        ValueError for recipes whose forward pass draws at random, maps its input, reads a scale of it that no step has
        given yet, or leaves no codes of the weight.
        """
        made = recipe_weight(layer, weight, layer.groups)
        how = made.how
        new = cls(
            **_geometry(layer), weight=how.scheme, columns=how.cols, input=how.input, gain=how.gain,
            input_scale=how.input_scale, accumulate=how.accumulate, output=how.output, bias=False,
            dtype=layer.weight.dtype, device="meta",
        )  # fmt: skip
        new.fill(made.codes, made.scale, made.outer, None)
        new.bias = None if layer.bias is None else layer.bias.detach().clone()
        return new.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """ValueError for other channels, TypeError for inputs that are not floating."""
        return convolved(self, checked_input(self, input), self._product)

    def _product(self, rows: Tensor) -> Tensor:
        """X' [B·L, C·k] → Y [B·L, N]."""
        outputs = []
        for index, x in enumerate(rows.chunk(self.groups, dim=1)):
            bias = None if self.bias is None else self.bias.chunk(self.groups)[index]
            outputs.append(coded_linear(x, self.group(index), bias, self.how))
        return outputs[0] if self.groups == 1 else torch.cat(outputs, dim=1)

    @property
    def weight(self) -> Tensor:
        """The decoded weight [N, C, …], of a rotated one the matrix [N, columns]: a new tensor at every access."""
        values = self.dequantize()
        values = values if self.how.gain == 1.0 else values * (1.0 / self.how.gain)
        return values.view(self._weight_shape) if self.cols == math.prod(self._weight_shape[1:]) else values

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _meaning(self) -> dict[str, Any]:
        block = 0 if self.how.turn is None else self.how.turn.size
        return {**super()._meaning(), "gain": self.how.gain, "rotation": block}

    @property
    def encoded(self) -> dict[str, Encoded]:
        """The weight, for files."""
        rotation, signs = self.how.rotation
        held = super().encoded["weight"]
        return {"weight": replace(held, shape=self._weight_shape, gain=self.how.gain, rotation=rotation, signs=signs)}

    @property
    def quantization(self) -> dict[str, Any]:
        """What the layer is, in numbers, strings, booleans and lists: the arguments of `InferenceConv` for its like."""
        described = self._described()
        return {
            **{name: _plain(value) for name, value in _geometry(self).items()},
            "weight": described["weight"],
            "dtype": described["dtype"],
            "columns": self.cols,
            "input": self.how.input,
            "gain": self.how.gain,
            "input_scale": self.how.input_scale,
            "accumulate": self.how.accumulate,
            "output": self.how.output,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        """Sizes and schemes."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", groups={self.groups}" if self.groups > 1 else ""
        return f"{text}, bias={self.bias is not None}, weight={self.scheme}, input={self.how.input}"


def _geometry(layer: Any) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(layer, name) for name in names}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
