"""`freeze_qat`: QAT layers become inference layers of true integer or floating-point codes.

The weight's codes decode to the fake-quantised weight bit for bit (float32). The input is quantised

    as codes   by the inference layer itself, where the method's activation is a scheme that multiplies with the codes
    as values  by the method's own quantiser in front of it, where it is not (offsets, unsigned codes, mid-rise levels)

Either way the product has the same operands as the fake-quantised one, which leaves the order of summation. With
γ = n u / (1 − n u), u = 2^-24, n = K + 8, for float32 layers:

    |y_frozen − y_qat| ≤ 2 γ (|x̂| |ŵ|ᵀ + |b|)        `frozen_bound`

A layer that quantises its output (keys and values) may in addition move a value by one step of that quantiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import IntFormat, parse
from narrowgauge.nn.fast_paths import match_fast_paths
from narrowgauge.nn.inference.linear import InferenceLinear
from narrowgauge.nn.inference.replace import places_of, put
from narrowgauge.nn.qat.config import Part
from narrowgauge.nn.qat.data import part_data, part_from_data
from narrowgauge.nn.qat.hadamard import hadamard
from narrowgauge.nn.qat.linear import QATLinear
from narrowgauge.nn.qat.lsq import LearnedActivation
from narrowgauge.nn.qat.prepare import qat_layers
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, WeightCodes


class FrozenLinear(nn.Module):
    """An `InferenceLinear` with a method's own quantiser before it (`activation`) or after it (`output`)."""

    def __init__(
        self,
        linear: InferenceLinear,
        activation: ActivationQuantizer | None,
        output: ActivationQuantizer | None,
        rotate: int = 0,
    ) -> None:
        super().__init__()
        self.linear, self.activation, self.output, self.rotate = linear, activation, output, rotate
        for quantizer in (activation, output):
            if quantizer is not None:
                quantizer.requires_grad_(False)

    @classmethod
    def from_place(
        cls,
        place: nn.Module,
        *,
        activation: Mapping[str, Any] | None,
        output: Mapping[str, Any] | None,
        rotate: int,
    ) -> FrozenLinear:
        """Quantisers as `quantization` says them around `place`, which an `InferenceLinear` replaces. For files."""
        inner: Any = place.linear if isinstance(place, FrozenLinear) else place
        before, after = (_made(part_from_data(data)) for data in (activation, output))
        return cls(inner, before, after, rotate)

    @property
    def quantization(self) -> dict[str, Any]:
        """What files need to make a layer like this one: arguments of `from_place`."""
        before, after = (_part(quantizer) for quantizer in (self.activation, self.output))
        return {"activation": part_data(before), "output": part_data(after), "rotate": self.rotate}

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        if self.activation is not None:
            input = self.activation(hadamard(input, self.rotate))
        y: Tensor = self.linear(input)
        return y if self.output is None else self.output(y)


def _part(quantizer: ActivationQuantizer | None) -> Part | None:
    """Of what a quantiser was made. TypeError where it was not made of a part."""
    if quantizer is None:
        return None
    part: Any = getattr(quantizer, "part", None)
    if not isinstance(part, Part):
        raise TypeError(f"activation: a {type(quantizer).__name__} that was not made by part(…).make() fits in no file")
    return part


def _made(part: Part | None) -> Any:
    return None if part is None else part.make()


def _scheme_for_codes(layer: QATLinear, weight: WeightCodes) -> str | None:
    """The scheme by which the inference layer can quantise its input, if the method's activation is one."""
    scheme = None if layer.activation_quantizer is None else layer.activation_quantizer.input_scheme
    if scheme is None or weight.zero_point is not None:
        return None
    elements = parse(scheme).element, parse(weight.scheme).element
    if not all(element.signed for element in elements):
        return None
    integers = [isinstance(element, IntFormat) for element in elements]
    return scheme if integers[0] == integers[1] else None


def frozen_layer(layer: QATLinear) -> InferenceLinear | FrozenLinear:
    """The inference layer of a QAT layer, whose quantisers it computes with. ValueError for a layer whose strength is
    not 1: its forward is not the quantised one; and for learned steps of its input that no batch has given a value."""
    if layer.mode != "on":
        raise ValueError(f"strength: is {float(layer.strength):g}, accepted: 1 (the phase has to be over)")
    for part, quantizer in (("activation", layer.activation_quantizer), ("output", layer.output_quantizer)):
        if isinstance(quantizer, LearnedActivation) and not bool(quantizer.begun):
            raise ValueError(f"{part}: the learned step has no value yet; run one batch in training mode first")
    weight = layer.weight_quantizer.codes(layer.weight.detach())
    scheme = _scheme_for_codes(layer, weight)
    before = layer.activation_quantizer if scheme is None else None
    linear = InferenceLinear.from_parts(
        weight.codes,
        weight.scale,
        weight.scheme,
        zero_point=weight.zero_point,
        bias=layer.bias,
        input_scheme=scheme,
        rotate=0 if before is not None else weight.rotate,
        dtype=layer.weight.dtype,
    )
    if before is None and layer.output_quantizer is None:
        return linear.train(layer.training)
    frozen = FrozenLinear(linear, before, layer.output_quantizer, weight.rotate)
    return frozen.train(layer.training)


def freeze_qat(model: nn.Module) -> nn.Module:
    """Replaces every `QATLinear` below `model` by its inference layer, in place, and returns the model.

    ValueError, by the layer's name, where a layer cannot be frozen; then the model is unchanged.
    """
    frozen: dict[int, nn.Module] = {}
    for name, layer in qat_layers(model).items():
        try:
            frozen[id(layer)] = frozen_layer(layer)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for old, names in places_of(model, lambda module: id(module) in frozen):
        put(old, frozen[id(old)], names)
    match_fast_paths(model)
    return model


@torch.no_grad()
def frozen_bound(layer: QATLinear, x: Tensor) -> Tensor:
    """2 γ (|x̂| |ŵ|ᵀ + |b|), float64 [..., N]: how far the outputs of a float32 `layer` for `x` [..., K] and of its
    frozen form may lie apart."""
    x_hat = layer.quantized_input(x).double().abs()
    w_hat = layer.quantized_weight().double().abs()
    n = (layer.in_features + 8) * 2.0**-24
    magnitude = x_hat @ w_hat.t()
    if layer.bias is not None:
        magnitude = magnitude + layer.bias.double().abs()
    return 2 * n / (1 - n) * magnitude
