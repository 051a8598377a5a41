"""DoReFa-Net: k-bit weights, activations and gradients on uniform grids.

    q_k(r) = RN((2^k − 1) r) / (2^k − 1), r in [0, 1]
    weights       r = tanh w / (2 max|tanh w|) + ½,  ŵ = 2 q_k(r) − 1;        k = 1: ŵ = E|w| · sign(w)
    activations   x̂ = q_k(clip(x, 0, 1))
    gradients     ĝ = 2m · [q_k(g / 2m + ½ + σ / (2^k − 1)) − ½],  m = max|g| per sample, σ ~ U(−½, ½)
    backward      q_k is passed straight through; tanh, the maximum and the clip have their own derivatives

RN(y + σ) with σ ~ U(−½, ½) is stochastic rounding of y, which is how ĝ is computed, from Philox bits. 2 q_k(r) − 1 is
computed as (code − (2^k − 1) / 2) · 2 / (2^k − 1). Zhou et al., arXiv 1606.06160, equations 7 to 12.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from narrowgauge.kernels import quantize
from narrowgauge.nn.maps.bounded import bounded_tanh
from narrowgauge.nn.qat.checks import check_bits
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, GradientQuantizer, Scaled, WeightQuantizer
from narrowgauge.nn.straight_through import high_precision, straight_through

BITS = range(1, 9)


class DoReFaWeight(WeightQuantizer):
    """Weights of 1 to 8 bits, one grid per tensor."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        check_bits("bits", bits, BITS)
        self.bits = bits
        self.element = "binary" if bits == 1 else f"uint{bits}"
        self.top = 2**bits - 1

    def scaled(self, weight: Tensor) -> Scaled:
        if self.bits == 1:
            return Scaled(weight, weight.abs().mean().reshape(1, 1))
        y = (bounded_tanh(weight) * 0.5 + 0.5) * self.top
        return Scaled(y, weight.new_full((1, 1), 2.0 / self.top), weight.new_full((1, 1), self.top / 2))

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits == 1:
            return super().forward(weight)
        squashed = bounded_tanh(high_precision(weight))
        with torch.no_grad():
            values = self.values(self.scaled(high_precision(weight)))
        return straight_through(squashed, values).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class DoReFaActivation(ActivationQuantizer):
    """Activations of 1 to 8 bits on [0, 1]; the gradient passes where 0 ≤ x ≤ 1."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        check_bits("bits", bits, BITS)
        self.bits, self.top = bits, 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            values = (high_precision(x).clamp(0, 1) * self.top).round() / self.top
            inside = (x >= 0) & (x <= 1)
        return straight_through(x, values.to(x.dtype), inside)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _QuantizeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, seed: int, offset: int) -> Tensor:
        ctx.settings = bits, seed, offset
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return dorefa_gradient(grads[0], *ctx.settings), None, None, None


def dorefa_gradient(g: Tensor, bits: int, seed: int, offset: int = 0) -> Tensor:
    """ĝ of `g` [samples, ...], unbiased, at most 2^bits values per sample. seed, offset: the Philox stream."""
    top = 2**bits - 1
    wide = high_precision(g)
    largest = wide.abs().flatten(1).amax(1) if g.numel() else wide.new_zeros(g.shape[0])
    largest = largest.reshape(-1, *[1] * (g.dim() - 1))
    usable = torch.where(largest > 0, largest, 1.0)
    y = (wide / (2 * usable) + 0.5) * top
    element = "binary" if bits == 1 else f"uint{bits}"
    # `binary` has the levels ±1 and takes the upper one with probability (y + 1) / 2.
    codes = quantize(2 * y - 1 if bits == 1 else y, f"{element}:static=1.0+sr", seed, offset=offset).codes
    values = 2 * largest * (codes.to(wide.dtype) / top - 0.5)
    return values.to(g.dtype)


class DoReFaGradient(GradientQuantizer):
    """The identity whose backward quantises the gradient of its output [samples, ..., features] to `bits` (1 to 8).

    The random stream is (seed, number of the forward), kept in the buffer `draws`.
    """

    draws: Tensor

    def __init__(self, bits: int = 6, seed: int = 0) -> None:
        super().__init__()
        check_bits("gradient_bits", bits, BITS)
        self.bits, self.seed = bits, seed
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x
        offset = int(self.draws)
        self.draws += 1
        result: Tensor = _QuantizeGradient.apply(x, self.bits, self.seed, offset)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        return f"bits={self.bits}"
