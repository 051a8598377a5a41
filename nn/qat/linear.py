"""`QATLinear`: an `nn.Linear` that computes with fake-quantised weight and input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.nn.layer_input import check_features
from narrowgauge.nn.qat.config import QATConfig
from narrowgauge.nn.qat.data import config_data, config_from_data
from narrowgauge.nn.qat.hadamard import hadamard
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, WeightQuantizer


class QATLinear(nn.Linear):
    """Drop-in for `nn.Linear`: the same parameter objects, input [..., in_features] → [..., out_features].

    y = x̂ · ŵᵀ + b with ŵ = `weight_quantizer(weight)` and x̂ = `activation_quantizer(x)`; `output_quantizer` acts on y
    (keys and values), `gradient_quantizer` on the gradient of y. Any but the first may be None. Learned parameters of
    the quantisers are parameters of the layer.
    """

    config: QATConfig
    weight_quantizer: WeightQuantizer
    activation_quantizer: ActivationQuantizer | None
    output_quantizer: ActivationQuantizer | None
    gradient_quantizer: nn.Module | None
    strength: Tensor

    @classmethod
    def from_linear(cls, linear: nn.Linear, config: QATConfig, *, kv: bool = False) -> QATLinear:
        """A QATLinear that shares the parameters of `linear`. kv: whether its output is a key or a value.

        ValueError for settings that do not fit the layer, such as groups that do not divide its inputs.
        """
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new.in_features, new.out_features = linear.in_features, linear.out_features
        new.weight, new.bias = linear.weight, linear.bias
        new.config = config
        device = linear.weight.device

        def made(given: Any) -> Any:
            return None if given is None else given.make().to(device)

        new.weight_quantizer = made(config.weight).bind(linear.weight.detach())
        new.activation_quantizer = made(config.activation)
        new.output_quantizer = made(config.kv) if kv else None
        new.gradient_quantizer = made(config.gradient)
        # Not of the meta device: files hold it as a number, and give it no value later.
        place = "cpu" if device.type == "meta" else device
        new.register_buffer("strength", torch.ones((), device=place), persistent=False)
        new.set_strength(1.0 if config.phase is None else config.phase.strength(0))
        new.train(linear.training)
        return new

    @classmethod
    def from_place(
        cls, place: nn.Module, *, config: Mapping[str, Any], kv: bool, strength: float, state: Mapping[str, Any]
    ) -> QATLinear:
        """`place`, an `nn.Linear`, under QAT as `quantization` says it; itself where it is that already. For files."""
        if not isinstance(place, nn.Linear):
            raise ValueError(f"model: a {type(place).__name__} is in the place of a QATLinear, expected an nn.Linear")
        plan = config_from_data(config)
        if isinstance(place, cls) and place.config == plan and (place.output_quantizer is not None) == kv:
            layer = place
        else:
            layer = cls.from_linear(place, plan, kv=kv)
        # A buffer of its own, because `load` takes changes back where something else does not fit.
        layer.strength = layer.strength.clone()
        layer.set_strength(strength)
        layer.weight_quantizer.take_state_(state, layer.weight.detach())
        return layer

    @property
    def quantization(self) -> dict[str, Any]:
        """What files need to make a layer like this one of an `nn.Linear`: arguments of `from_place`."""
        return {
            "config": config_data(self.config),
            "kv": self.output_quantizer is not None,
            "strength": float(self.strength),
            "state": self.weight_quantizer.state,
        }

    def set_strength(self, strength: float) -> None:
        """λ of ŵ = w + λ (q(w) − w), and of x̂ alike: 0 is full precision, 1 the quantisers alone."""
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength: got {strength}, accepted: 0 to 1")
        self.mode = "off" if strength == 0.0 else "on" if strength == 1.0 else "ramp"
        self.strength.fill_(strength)

    def _blend(self, plain: Tensor, quantizer: nn.Module | None, given: Tensor) -> Tensor:
        """quantizer(given), blended with `plain` by the strength."""
        if quantizer is None or self.mode == "off":
            return plain
        quantized: Tensor = quantizer(given)
        return quantized if self.mode == "on" else torch.lerp(plain, quantized, self.strength.to(plain.dtype))

    def quantized_weight(self) -> Tensor:
        """ŵ [N, K] as the product takes it: with the gradient of the method, rotated where the method rotates."""
        plain = hadamard(self.weight, self.weight_quantizer.rotate) if self.mode != "on" else self.weight
        return self._blend(plain, self.weight_quantizer, self.weight)

    def quantized_input(self, x: Tensor) -> Tensor:
        """x̂ [..., K] as the product takes it."""
        x = hadamard(x, self.weight_quantizer.rotate)
        return self._blend(x, self.activation_quantizer, x)

    def forward(self, input: Tensor) -> Tensor:
        """Raises ValueError if the last axis is not `in_features`, TypeError for inputs that are not floating."""
        check_features(input, self.in_features)
        y = nn.functional.linear(self.quantized_input(input), self.quantized_weight(), self.bias)
        y = self._blend(y, self.output_quantizer, y)
        if self.gradient_quantizer is not None and self.mode != "off":
            y = self.gradient_quantizer(y)
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, qat={self.config.name}"
