"""The one autograd function of every quantised linear layer: one GEMM helper, called three times."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels.dequantize import block_factors
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.tensor import dequantize_raw, quantize_raw
from narrowgauge.nn.saving import saved_are_compressed

Texts = tuple[str | None, ...]


class Operand(NamedTuple):
    """A GEMM operand [rows, reduction]: codes with scale and outer scale, or plain values (an empty slot)."""

    values: Tensor
    scale: Tensor | None = None
    outer: Tensor | None = None


def quantize_operand(x: Tensor, scheme: str | None, seed: int, offset: int) -> Operand:
    """`x` under `scheme`, or as it is where the slot is empty."""
    return Operand(x) if scheme is None else Operand(*quantize_raw(x, scheme, seed, offset))


def _dequantized(operand: Operand, scheme: str | None, dtype: torch.dtype) -> Tensor:
    if scheme is None or operand.scale is None or operand.outer is None:
        return operand.values.to(dtype)
    return dequantize_raw(operand.values, operand.scale, operand.outer, scheme, dtype)


def _gemm_scale(operand: Operand, scheme: str) -> Tensor | None:
    """The scale as the scaled GEMM takes it: factors where a second scale for the whole tensor belongs to it."""
    if operand.scale is None or operand.outer is None or not parse(scheme).two_level:
        return operand.scale
    return block_factors(operand.scale, operand.outer, scheme, operand.values.shape[1])


def gemm(
    a: Operand, b: Operand, a_scheme: str | None, b_scheme: str | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """a [M, K] · b [N, K]ᵀ (+ bias [N]) in `dtype`. Both quantised: the scaled GEMM; else in high precision on the
    dequantised values."""
    if a_scheme is not None and b_scheme is not None:
        wide = torch.float32 if dtype == torch.float64 else dtype
        scales = _gemm_scale(a, a_scheme), _gemm_scale(b, b_scheme)
        result: Tensor = GEMM(a.values, scales[0], b.values, scales[1], a_scheme, b_scheme, bias, wide)
        return result.to(dtype)
    product = _dequantized(a, a_scheme, dtype) @ _dequantized(b, b_scheme, dtype).t()
    return product if bias is None else product + bias.to(dtype)


class QuantizedMatmul(torch.autograd.Function):
    """Y = X·Wᵀ + b with X [T, K], W [N, K]; `texts`: the six slots of a recipe; `offset`: the stream of this call.

    Saved for backward: W, which is a parameter, and the wgrad copy of X as codes; X itself where that slot is empty,
    and under `compress_activations`, which keeps one compressed X for all its readers: backward then makes the copy.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, texts: Texts, seed: int, offset: int
    ) -> Tensor:
        x_fprop, w_fprop, _, _, _, x_wgrad = texts
        a = quantize_operand(x, x_fprop, seed, offset)
        b = quantize_operand(weight, w_fprop, seed, offset + 1)
        kept: tuple[Tensor | None, ...] = ()
        if ctx.needs_input_grad[1]:
            whole = x_wgrad is None or saved_are_compressed()
            kept = (x,) if whole else quantize_operand(x.t(), x_wgrad, seed, offset + 2)
        ctx.save_for_backward(weight, *kept)
        ctx.texts, ctx.seed, ctx.offset, ctx.x_dtype = texts, seed, offset, x.dtype
        ctx.has_bias = bias is not None
        return gemm(a, b, x_fprop, w_fprop, bias, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        weight, *saved = ctx.saved_tensors
        _, _, g_dgrad, w_dgrad, g_wgrad, x_wgrad = ctx.texts
        grad_x = grad_w = grad_b = None
        if ctx.needs_input_grad[0]:
            a = quantize_operand(g, g_dgrad, ctx.seed, ctx.offset + 3)
            b = quantize_operand(weight.t(), w_dgrad, ctx.seed, ctx.offset + 4)
            grad_x = gemm(a, b, g_dgrad, w_dgrad, None, ctx.x_dtype)
        if ctx.needs_input_grad[1]:
            a = quantize_operand(g.t(), g_wgrad, ctx.seed, ctx.offset + 5)
            x = Operand(*saved) if len(saved) > 1 else quantize_operand(saved[0].t(), x_wgrad, ctx.seed, ctx.offset + 2)
            grad_w = gemm(a, x, g_wgrad, x_wgrad, None, weight.dtype)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_b = g.sum(0, dtype=torch.float32).to(weight.dtype)
        return grad_x, grad_w, grad_b, None, None, None
