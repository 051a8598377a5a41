"""BitNet (1 bit) and BitNet b1.58 (ternary), with their int8 activations.

    1 bit    β = mean|w|,  ŵ = β · sign(w − mean w), per tensor                        sign(0) = +1 (the paper: −1)
             x̂: int8, one absmax scale per tensor, after a LayerNorm without parameters; s as below (paper: 128 / amax)
    b1.58    γ = max(mean|w|, 1e-5),  ŵ = γ · clip(RN(w / γ), −1, 1), per tensor
             x̂ = RN(x s) / s clipped to [−128, 127], s = 127 / max(amax, 1e-5), per token
    backward identity everywhere

Both papers have a norm inside the layer: LayerNorm for 1 bit, for b1.58 RMSNorm (`norm="rms"`), which takes the place
of the model's own norms before attention and MLP; without one (`norm="none"`) those stay.

Wang et al., arXiv 2310.11453, section 2.1; Ma et al., arXiv 2402.17764, section 2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from narrowgauge.nn.qat.checks import check_bits, check_choice
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, Scaled, WeightQuantizer
from narrowgauge.nn.straight_through import high_precision, straight_through

FLOOR = 1e-5


class BitNetWeight(WeightQuantizer):
    """mean|w| · sign(w − mean w)."""

    element = "binary"

    def scaled(self, weight: Tensor) -> Scaled:
        return Scaled(weight - weight.mean(), weight.abs().mean().reshape(1, 1))

    @torch.no_grad()
    def border_distance(self, weight: Tensor) -> Tensor:
        wide = high_precision(weight)
        return (wide - wide.mean()).abs() / wide.abs().mean()


class BitNet158Weight(WeightQuantizer):
    """{−γ, 0, γ} with γ = mean|w|. The codes are those of int2, which integer products with int8 inputs take."""

    element = "int2"

    def scaled(self, weight: Tensor) -> Scaled:
        scale = weight.abs().mean().clamp_min(FLOOR).reshape(1, 1)
        return Scaled(weight / scale, scale)


class AbsmaxActivation(ActivationQuantizer):
    """Integers of `bits` (2 to 8) with the scale amax / (2^(bits−1) − 1) per `granularity` (tensor or row).

    norm: none, layer (LayerNorm without parameters, as BitNet puts before its quantiser) or rms. amax is at least
    1e-5; groups below that are the only ones that differ from `input_scheme`, by at most half a step of that floor.
    """

    NORMS: ClassVar[tuple[str, ...]] = ("none", "layer", "rms")

    def __init__(self, bits: int = 8, granularity: str = "row", norm: str = "none") -> None:
        super().__init__()
        check_bits("activation_bits", bits, range(2, 9))
        check_choice("granularity", granularity, ("tensor", "row"))
        check_choice("norm", norm, self.NORMS)
        self.bits, self.granularity, self.norm = bits, granularity, norm
        self.top = 2 ** (bits - 1) - 1

    @property
    def input_scheme(self) -> str | None:
        if self.norm != "none":
            return None
        return f"int{self.bits}/row" if self.granularity == "row" else f"int{self.bits}"

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "layer":
            x = functional.layer_norm(x, x.shape[-1:])
        elif self.norm == "rms":
            x = functional.rms_norm(x, x.shape[-1:])
        with torch.no_grad():
            wide = high_precision(x)
            magnitude = wide.abs()
            if self.granularity == "row":
                amax = magnitude.amax(-1, keepdim=True)
            else:
                amax = magnitude.max() if x.numel() else wide.new_zeros(())
            scale = amax.clamp_min(FLOOR) / self.top
            codes = (wide * (1.0 / scale)).round().clamp(-self.top - 1, self.top)
            values = (codes * scale).to(x.dtype)
        return straight_through(x, values)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity}, norm={self.norm}"
