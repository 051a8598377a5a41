"""x · Wᵀ + b with a frozen weight that is kept as codes: `torch.ops.narrowgauge.stored_linear`.

    y [T, N] = x [T, K] · dequantize(W) [N, K]ᵀ + b               dx = dy · dequantize(W), W rounded to the dtype of dy

The product is that of `kernels/weight_only.py`, in which the weight is never whole. Backward decodes again, so that
nothing but codes is saved; on the CPU so many rows at a time as make `BLOCK` values, elsewhere everything. No weight
gradient exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.kernels.weight_only import WEIGHT_ONLY_GEMM
from narrowgauge.nn.inference.parts import Parts, decoded_rows, plain_scale, rows_of, whole

BLOCK = 1 << 19
"""Weights decoded at a time: 2 MiB in float32."""


def _blocks(parts: Parts, scheme: str, cols: int, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, last row + 1, those rows of the weight)."""
    spec = parse(scheme)
    rows = parts.codes.shape[0]
    height = spec.tile[0] or 1
    step = max(1, BLOCK // max(cols, 1) // height) * height
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, stop, decoded_rows(rows_of(parts, spec, start, stop), spec, cols).to(dtype)


def _forward(
    x: Tensor, codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None, second: Tensor | None,
    mean: Tensor | None, bias: Tensor | None, scheme: str, cols: int,
) -> Tensor:  # fmt: skip
    parts = Parts(codes, scale, outer, zero_point, second, mean)
    packed = parse(scheme).element.bits < 8
    y: Tensor = WEIGHT_ONLY_GEMM(x, codes, plain_scale(parts), outer, zero_point, scheme, cols, packed, bias, x.dtype)
    return y


def _input_gradient(
    grad: Tensor, codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None, second: Tensor | None,
    mean: Tensor | None, scheme: str, cols: int,
) -> Tensor:  # fmt: skip
    parts = Parts(codes, scale, outer, zero_point, second, mean)
    if grad.device.type != "cpu" or codes.numel() == 0:
        return grad @ whole(parts, scheme, cols, grad.dtype)
    total = None
    for start, stop, weight in _blocks(parts, scheme, cols, grad.dtype):
        product = torch.mm(grad[:, start:stop], weight)
        if stop - start == grad.shape[1]:
            return product
        # Partial sums of 16-bit gradients are added in float32.
        wide = product.double() if grad.dtype == torch.float64 else product.float()
        total = wide if total is None else total.add_(wide)
    assert total is not None
    return total.to(grad.dtype)


_WEIGHT = "Tensor codes, Tensor scale, Tensor? outer, Tensor? zero_point, Tensor? second, Tensor? mean"
LIBRARY.define(f"stored_linear(Tensor x, {_WEIGHT}, Tensor? bias, str scheme, int cols) -> Tensor")
LIBRARY.define(f"stored_linear_backward(Tensor grad, {_WEIGHT}, str scheme, int cols) -> Tensor")
LIBRARY.impl("stored_linear", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("stored_linear_backward", _input_gradient, "CompositeExplicitAutograd")


@torch.library.register_fake("narrowgauge::stored_linear", lib=LIBRARY)
def _fake_forward(x: Tensor, codes: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((x.shape[0], codes.shape[0]))


@torch.library.register_fake("narrowgauge::stored_linear_backward", lib=LIBRARY)
def _fake_backward(grad: Tensor, *rest: Any) -> Tensor:
    return grad.new_empty((grad.shape[0], rest[-1]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *weight = inputs[:7]
    ctx.save_for_backward(*weight)
    ctx.rest = inputs[8:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The weight is frozen and so is the bias: only the input has a gradient.
    dx = torch.ops.narrowgauge.stored_linear_backward(grad, *ctx.saved_tensors, *ctx.rest)
    return dx, *([None] * 9)


torch.library.register_autograd("narrowgauge::stored_linear", _backward, setup_context=_keep, lib=LIBRARY)


def stored_linear(x: Tensor, parts: Parts, bias: Tensor | None, scheme: str, cols: int) -> Tensor:
    """x [T, cols] times the weight of `parts` [N, cols], plus bias [N]: [T, N] in the dtype of x."""
    result: Tensor = torch.ops.narrowgauge.stored_linear(x, *parts, bias, scheme, cols)
    return result
