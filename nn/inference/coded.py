"""x · Wᵀ + b with both operands as the forward pass of a recipe has them: what W8A8 and its relatives compute.

    a = operand of x under its slot      b = codes of W      y = output(gemm(a, b) + bias)

The functions are those of `QuantLinear`, so the bits are, too. Backward is that of the identity straight-through
estimator, with the weight as it was stored: dx = dy · dequantize(W), turned back where x was rotated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.formats.operand import OperandScheme, parse_operand
from narrowgauge.formats.stages import Draw, Rotation
from narrowgauge.nn.inference.parts import Parts, plain_codes, plain_scale
from narrowgauge.nn.operand import Operand, dequantized, gemm, make_operand
from narrowgauge.nn.stages.rotation import rotated_back, sign_vector


class How(NamedTuple):
    """scheme, cols, gain: of the weight [N, cols], whose decoded values are `gain` times too large. input: the slot of
    x, None for x as it is; input_scale: a scale that is given. accumulate, output: those of `Recipe`."""

    scheme: str
    cols: int
    gain: float = 1.0
    input: str | None = None
    input_scale: float | None = None
    accumulate: str | None = None
    output: str | None = None

    @property
    def turn(self) -> Rotation | None:
        """The rotation of both operands."""
        spec = None if self.input is None else parse_operand(self.input)
        return spec.rotation if isinstance(spec, OperandScheme) else None

    @property
    def rotation(self) -> tuple[int, list[float] | None]:
        """Block and signs of the rotation in which the codes are, as files have them; (0, None) without one."""
        if self.turn is None:
            return 0, None
        sign = sign_vector(self.turn, Draw(), torch.device("cpu"))
        return self.turn.size, None if sign is None else sign.tolist()


def weight_operand(parts: Parts, how: How) -> Operand:
    """The stored weight as an operand of `nn.operand`."""
    codes = plain_codes(parts.codes, parse(how.scheme).element, how.cols)
    outer = parts.scale.new_ones((), dtype=torch.float32) if parts.outer is None else parts.outer
    return Operand(codes, plain_scale(parts), outer, how.scheme, how.gain)


def coded_product(x: Tensor, parts: Parts, bias: Tensor | None, how: How) -> Tensor:
    """[T, N] in the dtype of x [T, K]; no gradient."""
    scale = None if how.input_scale is None else torch.tensor(how.input_scale, dtype=torch.float32, device=x.device)
    a = make_operand(x, how.input, Draw(), scale)
    y = gemm(a, weight_operand(parts, how), bias, x.dtype, how.accumulate, Draw())
    return y if how.output is None else dequantized(make_operand(y, how.output, Draw()), x.dtype)


class _CodedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, how: How, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.how, ctx.columns = how, x.shape[1]
        codes, scale, *rest = tensors
        assert codes is not None
        assert scale is not None
        return coded_product(x, Parts(codes, scale, *rest), bias, how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        how = ctx.how
        dx = torch.ops.narrowgauge.stored_linear_backward(grad, *ctx.saved_tensors, how.scheme, how.cols)
        dx = dx if how.gain == 1.0 else dx * (1.0 / how.gain)
        if how.turn is not None:
            sign = sign_vector(how.turn, Draw(), dx.device)
            dx = rotated_back(dx, how.turn.size, sign, ctx.columns).to(grad.dtype)
        return dx, *([None] * (2 + len(ctx.saved_tensors)))


def coded_linear(x: Tensor, parts: Parts, bias: Tensor | None, how: How) -> Tensor:
    """`coded_product` with a gradient for x."""
    result: Tensor = _CodedLinear.apply(x, bias, how, *parts)  # type: ignore[no-untyped-call]
    return result
