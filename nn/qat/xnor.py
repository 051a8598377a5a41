"""XNOR-Net and its binary-weight network: signs times a mean magnitude.

    weights       α = mean |w| per output channel,  ŵ = α · sign(w)
    activations   β = mean |x| per row,             x̂ = β · sign(x)           sign(0) = +1
    backward      ste:    ∂L/∂w = ∂L/∂ŵ · 1[|w| ≤ 1]
                  scaled: ∂L/∂w = ∂L/∂ŵ · (1/n + α · 1[|w| ≤ 1]), the paper's, n weights per channel

Rastegari, Ordonez, Redmon and Farhadi, arXiv 1603.05279, sections 3.1 and 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.nn.qat.checks import check_choice
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, Scaled, WeightQuantizer
from narrowgauge.nn.straight_through import high_precision, straight_through

GRADIENTS = ("ste", "scaled")


class XNORWeight(WeightQuantizer):
    """mean |w| · sign(w) per output channel; gradient: ste or scaled."""

    element = "binary"
    granularity = "row"

    def __init__(self, gradient: str = "ste") -> None:
        super().__init__()
        check_choice("gradient", gradient, GRADIENTS)
        self.gradient = gradient

    def scaled(self, weight: Tensor) -> Scaled:
        scale = weight.abs().mean(dim=1, keepdim=True)
        return Scaled(torch.where(scale > 0, weight / scale, weight), scale)

    def gradient_multiplier(self, weight: Tensor, scaled: Scaled, values: Tensor) -> Tensor | None:
        gate = (weight.abs() <= 1).to(weight.dtype)
        return gate if self.gradient == "ste" else gate * scaled.scale + 1.0 / weight.shape[1]

    def extra_repr(self) -> str:
        return f"gradient={self.gradient}"


class XNORActivation(ActivationQuantizer):
    """mean |x| · sign(x) per row of [..., K]; the gradient passes where |x| ≤ 1."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wide = high_precision(x)
            scale = wide.abs().mean(dim=-1, keepdim=True)
            values = torch.where(wide >= 0, scale, -scale).to(x.dtype)
        return straight_through(x, values, x.detach().abs() <= 1)
