"""x · Wᵀ + b with a frozen weight that is kept as codes: `torch.ops.narrowgauge.stored_linear`.

    y [T, N] = x [T, K] · dequantize(W) [N, K]ᵀ + b,   W rounded once to the dtype of x        dx = dy · dequantize(W)

The weight is never whole on the CPU: so many rows as make `BLOCK` values are decoded, multiplied into their columns of
y, and forgotten, while they are in the cache. Other devices decode everything, then multiply. Backward decodes again,
so that nothing but codes is saved; no weight gradient exists.

A few rows of bfloat16 times int8 codes with a scale per row (one token at a time) go to torch's kernel for that, which
multiplies the codes themselves; the scales multiply its sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.nn.inference.parts import Parts, decoded_rows, rows_of, whole

BLOCK = 1 << 19
"""Weights decoded at a time: 2 MiB in float32."""
FEW_ROWS = 4
"""Rows of x up to which torch's int8 kernel is faster than decoding and the BLAS."""


def _blocks(parts: Parts, scheme: str, cols: int, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, last row + 1, those rows of the weight)."""
    spec = parse(scheme)
    rows = parts.codes.shape[0]
    height = spec.tile[0] or 1
    step = max(1, BLOCK // max(cols, 1) // height) * height
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, stop, decoded_rows(rows_of(parts, spec, start, stop), spec, cols).to(dtype)


def _suits_int8_kernel(x: Tensor, parts: Parts, scheme: str) -> bool:
    """Whether torch's int8 kernel serves: it is faster up to `FEW_ROWS` rows, and reads past the end of rows that are
    no multiple of its vectors."""
    spec = parse(scheme)
    is_plain = spec.element.name in ("int8", "int8_full") and spec.tile == (1, None)
    is_whole = x.shape[1] % 64 == 0 and parts.codes.shape[0] % 64 == 0 and x.shape[1] > 0
    return (
        x.dtype == torch.bfloat16
        and 0 < x.shape[0] <= FEW_ROWS
        and is_plain
        and is_whole
        and parts.zero_point is None
        and parts.second is None
    )


def _forward(
    x: Tensor, codes: Tensor, scale: Tensor, outer: Tensor | None, zero_point: Tensor | None, second: Tensor | None,
    mean: Tensor | None, bias: Tensor | None, scheme: str, cols: int,
) -> Tensor:  # fmt: skip
    parts = Parts(codes, scale, outer, zero_point, second, mean)
    if x.device.type != "cpu":
        y = x @ whole(parts, scheme, cols, x.dtype).t()
    elif _suits_int8_kernel(x, parts, scheme):
        one = torch.ones(codes.shape[0], dtype=x.dtype)
        y = (torch._weight_int8pack_mm(x.contiguous(), codes, one).float() * scale.t()).to(x.dtype)
    else:
        y = x.new_empty((x.shape[0], codes.shape[0]))
        for start, stop, weight in _blocks(parts, scheme, cols, x.dtype):
            torch.mm(x, weight.t(), out=y[:, start:stop])
    return y if bias is None else y.add_(bias.to(x.dtype))


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
