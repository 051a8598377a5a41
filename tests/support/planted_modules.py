"""A quantised linear layer written down from its definition, and the same with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from narrowgauge.formats import parse, quantize_reference
from narrowgauge.formats.quantizer import as_matrix, rescaled
from narrowgauge.formats.scaling import inverse_scale
from narrowgauge.formats.tiles import spread

SLOTS = ("x_fprop", "w_fprop", "g_dgrad", "w_dgrad", "g_wgrad", "x_wgrad")
ROWS = dict.fromkeys(SLOTS, "e4m3fn/row")
HYBRID = {**ROWS, "g_dgrad": "e5m2/row", "g_wgrad": "e4m3fn/row"}
BLOCKS = {**ROWS, "w_fprop": "e4m3fn/128x128", "w_dgrad": "e4m3fn/128x128", "x_wgrad": "e4m3fn/1x16"}
RANDOM = {**ROWS, "g_dgrad": "int8/row+sr", "g_wgrad": "int8/row+sr"}


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.has_bias = layer, bias is not None
        return layer.forward_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (x, weight), layer = grads, ctx.saved_tensors, ctx.layer
        grad_x = layer.product("g_dgrad", g, "w_dgrad", weight.t()) if ctx.needs_input_grad[0] else None
        grad_w = layer.product("g_wgrad", g.t(), "x_wgrad", x.t()) if ctx.needs_input_grad[1] else None
        grad_b = layer.bias_gradient(g) if ctx.has_bias else None
        return grad_x, grad_w, grad_b, None


class Layer(nn.Linear):
    """The definition. `calls` counts what was drawn."""

    def __init__(self, slots: dict[str, str], k: int = 40, n: int = 24) -> None:
        super().__init__(k, n)
        self.slots, self.calls = slots, 0

    def forward(self, x: Tensor) -> Tensor:
        y = _Matmul.apply(x.reshape(-1, self.in_features), self.weight, self.bias, self)
        return y.view(*x.shape[:-1], self.out_features)

    def forward_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = self.product("x_fprop", x, "w_fprop", weight)
        return y if bias is None else y + bias

    def product(self, a_slot: str, a: Tensor, b_slot: str, b: Tensor) -> Tensor:
        left, right = (self.operand(slot, t.float().numpy()) for slot, t in ((a_slot, a), (b_slot, b)))
        return torch.from_numpy((left @ right.T).astype(np.float32)).to(a.dtype)

    def operand(self, slot: str, x: Any) -> Any:
        self.calls += 1
        return quantize_reference(np.ascontiguousarray(x), self.slots[slot], seed=self.calls).dequantize()

    def bias_gradient(self, g: Tensor) -> Tensor:
        return g.sum(0, dtype=torch.float32).to(g.dtype)


class RawOperand(Layer):
    """One slot is left in high precision."""

    slot = "x_wgrad"

    def operand(self, slot: str, x: Any) -> Any:
        return x.astype(np.float64) if slot == self.slot else super().operand(slot, x)


class RawWeightInDgrad(RawOperand):
    slot = "w_dgrad"


class WrongAxis(Layer):
    """The backward takes the forward's copy of W, whose scales run along the other axis."""

    def operand(self, slot: str, x: Any) -> Any:
        return super().operand(slot, x.T).T if slot == "w_dgrad" else super().operand(slot, x)


class NoScale(Layer):
    def operand(self, slot: str, x: Any) -> Any:
        if slot != "g_dgrad":
            return super().operand(slot, x)
        spec = parse(self.slots[slot])
        return spec.element.decode(quantize_reference(np.ascontiguousarray(x), spec).codes)


class OtherScheme(Layer):
    def operand(self, slot: str, x: Any) -> Any:
        return super().operand("g_dgrad" if slot == "g_wgrad" else slot, x)


class PerTensor(Layer):
    def operand(self, slot: str, x: Any) -> Any:
        if slot != "x_fprop":
            return super().operand(slot, x)
        return quantize_reference(
            np.ascontiguousarray(x), replace(parse(self.slots[slot]), tile=(None, None))
        ).dequantize()


class MeanOfBias(Layer):
    def bias_gradient(self, g: Tensor) -> Tensor:
        return g.float().mean(0).to(g.dtype)


class NoBias(Layer):
    def forward_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super().forward_product(x, weight, None)


class DoubleGradient(Layer):
    def product(self, a_slot: str, a: Tensor, b_slot: str, b: Tensor) -> Tensor:
        return super().product(a_slot, a, b_slot, b) * (2.0 if a_slot == "g_wgrad" else 1.0)


class Float32Output(Layer):
    def forward_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super().forward_product(x, weight, bias).float()


class RoundsItsWeight(Layer):
    def forward_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.no_grad():
            weight.copy_(weight.bfloat16())
        return super().forward_product(x, weight, bias)


class HidesNan(Layer):
    def forward_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.nan_to_num(super().forward_product(x, weight, bias))


class Noisy(Layer):
    def operand(self, slot: str, x: Any) -> Any:
        noise = np.random.default_rng(self.calls).standard_normal(x.shape)
        return super().operand(slot, x) * (1.0 + 2e-8 * noise)


class Nearest(Layer):
    def operand(self, slot: str, x: Any) -> Any:
        nearest = replace(parse(self.slots[slot]), stochastic=False)
        return quantize_reference(np.ascontiguousarray(x), nearest).dequantize()


class SameBits(Layer):
    def operand(self, slot: str, x: Any) -> Any:
        self.calls = 0
        return super().operand(slot, x)


class RoundsUpTooSeldom(Layer):
    """Stochastic rounding whose random numbers reach only half of their range."""

    def operand(self, slot: str, x: Any) -> Any:
        spec = parse(self.slots[slot])
        if not spec.stochastic:
            return super().operand(slot, x)
        self.calls += 1
        x = np.ascontiguousarray(x)
        q = quantize_reference(x, replace(spec, stochastic=False))
        matrix = as_matrix(x)
        y = rescaled(matrix, spread(inverse_scale(q.scale), spec.tile, matrix.shape), x.dtype)
        bits = np.random.default_rng(self.calls).integers(0, 2**23, y.shape)
        codes = spec.element.encode(y, "stochastic", random_bits=bits)
        return replace(q, codes=codes).dequantize()


class OneOfTwoVaries(Layer):
    """A slot that should be random is not rounded at all: its mean is right, its variance is 0."""

    def operand(self, slot: str, x: Any) -> Any:
        return x.astype(np.float64) if slot == "x_wgrad" else super().operand(slot, x)


@dataclass(frozen=True)
class Planted:
    """A faulty layer's class and slots, and the kind by which the report has to name it."""

    kind: str
    layer: Callable[..., Layer]
    slots: dict[str, str]


PLANTED = (
    Planted("x_wgrad not quantised", RawOperand, ROWS),
    Planted("w_dgrad not quantised", RawWeightInDgrad, ROWS),
    Planted("w_dgrad scaled along the wrong axis", WrongAxis, ROWS),
    Planted("g_dgrad without scale", NoScale, ROWS),
    Planted("g_wgrad has the scheme of g_dgrad", OtherScheme, HYBRID),
    Planted("x_fprop scaled per tensor", PerTensor, ROWS),
    Planted("mean instead of sum", MeanOfBias, ROWS),
    Planted("bias missing", NoBias, ROWS),
    Planted("wrong factor", DoubleGradient, ROWS),
    Planted("wrong dtype", Float32Output, ROWS),
    Planted("state changed", RoundsItsWeight, ROWS),
    Planted("non-finite lost", HidesNan, ROWS),
    Planted("not deterministic", Noisy, ROWS),
    Planted("g_dgrad rounds to nearest", Nearest, RANDOM),
    Planted("same random bits in every call", SameBits, RANDOM),
    Planted("biased stochastic rounding", RoundsUpTooSeldom, RANDOM),
    Planted("an operand does not vary", OneOfTwoVaries, {**RANDOM, "x_wgrad": "int8/row+sr"}),
)
