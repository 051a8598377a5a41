"""Layers that compute, propagate and update in integers (Wang et al., arXiv 2009.13108).

    Y = X·Wᵀ in int32, requantised to int8;  exponents add:  e_Y = e_X + e_W + shift
    dX = dY·W in int32, requantised to int8
    dW = dYᵀ·X in int32, requantised to μ bits;  W ← clip(W - dW, ±127)

The exponent of dW is not used: a step is at most 2^μ - 1 codes, and μ is the learning rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narrowgauge.nn.niti.shift import requantize
from narrowgauge.nn.niti.tensor import BITS, LARGEST, IntTensor, to_int_tensor

MOST_TERMS = 2**31 // LARGEST**2 - 1
"""Products of two codes that an int32 sum holds for certain."""


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] · b [N, K]ᵀ of int8 codes, exactly, int32 [M, N]. ValueError where int32 might overflow."""
    if a.shape[1] > MOST_TERMS:
        raise ValueError(f"a: an int32 sum holds {MOST_TERMS} products of int8 codes, got {a.shape[1]}")
    return a.to(torch.int32) @ b.to(torch.int32).t()


class NITILinear(nn.Module):
    """Y = X·Wᵀ without a bias. weight: int8 [out_features, in_features], a buffer; exponent: int64 [], its own.

    update_bits: μ, bits of a weight's step, 1 to 7. seed: of the initial weights, uniform of Xavier's width. Integer
    products of torch run on the CPU.
    """

    weight: Tensor
    exponent: Tensor

    def __init__(self, in_features: int, out_features: int, update_bits: int = 3, *, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= update_bits <= BITS:
            raise ValueError(f"update_bits: expected 1 to {BITS}, got {update_bits}")
        self.in_features, self.out_features, self.update_bits = in_features, out_features, update_bits
        width = (6.0 / (in_features + out_features)) ** 0.5
        uniform = torch.rand(out_features, in_features, generator=torch.Generator().manual_seed(seed))
        weight = to_int_tensor((2.0 * uniform - 1.0) * width)
        self.register_buffer("weight", weight.codes)
        self.register_buffer("exponent", torch.tensor(weight.exponent))
        self._input: Tensor | None = None

    def forward(self, x: IntTensor) -> IntTensor:
        """x: codes [T, in_features]; result [T, out_features]. In training the input is kept for `backward`. TypeError
        for other things than IntTensors, ValueError for other codes."""
        if not isinstance(x, IntTensor):
            raise TypeError(f"x: expected an IntTensor (`to_int_tensor` makes one), got {type(x).__name__}")
        if x.codes.dtype != torch.int8 or x.codes.dim() != 2 or x.codes.shape[1] != self.in_features:
            found = f"{x.codes.dtype} {tuple(x.codes.shape)}"
            raise ValueError(f"x: expected int8 codes [T, {self.in_features}], got {found}")
        self._input = x.codes if self.training else None
        codes, shift = requantize(integer_product(x.codes, self.weight))
        return IntTensor(codes, x.exponent + int(self.exponent) + shift)

    def backward(self, gradient: IntTensor) -> IntTensor:
        """The input's gradient, of dY [T, out_features]; moves the weights. RuntimeError without a forward before."""
        if self._input is None:
            raise RuntimeError("backward: no forward in training mode has gone before")
        error = gradient.codes
        codes, shift = requantize(integer_product(error, self.weight.t()))
        step, _ = requantize(integer_product(error.t(), self._input.t()), self.update_bits)
        self.weight.copy_((self.weight.to(torch.int16) - step).clamp(-LARGEST, LARGEST))
        self._input = None
        return IntTensor(codes, gradient.exponent + int(self.exponent) + shift)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, update_bits={self.update_bits}"


class NITIReLU(nn.Module):
    """max(x, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self._positive: Tensor | None = None

    def forward(self, x: IntTensor) -> IntTensor:
        """Codes of any shape."""
        self._positive = x.codes > 0
        return IntTensor(x.codes.clamp(min=0), x.exponent)

    def backward(self, gradient: IntTensor) -> IntTensor:
        """The gradient where the input was positive. RuntimeError without a forward before."""
        if self._positive is None:
            raise RuntimeError("backward: no forward has gone before")
        return IntTensor(torch.where(self._positive, gradient.codes, 0), gradient.exponent)


class NITISequential(nn.ModuleList):
    """Layers one after the other."""

    def __init__(self, *layers: NITILinear | NITIReLU) -> None:
        super().__init__(layers)

    def forward(self, x: IntTensor) -> IntTensor:
        """Through every layer."""
        for layer in self:
            x = layer(x)
        return x

    def backward(self, gradient: IntTensor) -> IntTensor:
        """Back through every layer; weights move as it passes."""
        for layer in reversed(self):
            gradient = layer.backward(gradient)  # type: ignore[operator]
        return gradient
