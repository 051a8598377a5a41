"""The one autograd function of every quantised linear layer: one GEMM helper, called three times."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from narrowgauge.formats.slots import SLOTS
from narrowgauge.nn.calls import Call
from narrowgauge.nn.operand import Operand, dequantized, has_codes
from narrowgauge.nn.saving import saved_are_compressed
from narrowgauge.nn.scaling import ScaleState
from narrowgauge.nn.traced_calls import TracedCall

AnyCall = Call | TracedCall
Scalers = dict[str, ScaleState]


class Plan(NamedTuple):
    """A recipe as plain values, which compilers see through. slots: six texts in the order of `SLOTS`; outputs: schemes
    of Y, dX and dW. See `Recipe` for the rest."""

    slots: tuple[str | None, ...]
    outputs: tuple[str | None, ...] = (None, None, None)
    accumulate: str | None = None
    requantize: bool = False
    sample: float | None = None


class Rules(NamedTuple):
    """What the three products of one call follow. scalers: the stateful scales by slot, None where there are none."""

    plan: Plan
    call: AnyCall
    scalers: Scalers | None = None

    def operand(self, x: Tensor, slot: int, *, forward: bool = False) -> tuple[Operand, Tensor | None]:
        """(the operand of a slot, its scale where that is stateful). forward: see `Call.scale`."""
        state = self.scalers.get(SLOTS[slot]) if self.scalers is not None else None
        scale = None if state is None else self.call.scale(state, x, slot, forward=forward)
        return self.call.operand(x, self.plan.slots[slot], slot, scale), scale

    def both(self, x: Tensor, slot: int, turned: int) -> tuple[Operand, Operand] | None:
        """The operands of x and of its transpose in two slots, where one kernel makes both (`nn.operand.make_both`)."""
        if any(SLOTS[index] in (self.scalers or {}) for index in (slot, turned)):
            return None
        return self.call.both(x, (self.plan.slots[slot], self.plan.slots[turned]), (slot, turned))

    def product(self, a: Operand, b: Operand, index: int, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Product `index` of (fprop, dgrad, wgrad), under its accumulator and in the format of its output."""
        y, text = self.call.product(a, b, index, bias, dtype, self.plan.accumulate), self.plan.outputs[index]
        return y if text is None else self.call.output(y, text, index)

    def restored(self, operand: Operand, slot: int, like: Tensor) -> Tensor:
        """The values of the operand that was made of `like`, in its dtype."""
        return self.call.restored(operand, self.plan.slots[slot], slot, like.shape[1], like.dtype)

    def sampled(self, a: Operand, slot: int, g: Tensor, x: Operand | None = None) -> Operand:
        """The operand of dY with a share of its tokens. x: X, for the weight's gradient, whose tokens are columns."""
        share = self.plan.sample
        if share is None or not g.numel():
            return a
        values, others = dequantized(a, torch.float32), None
        if x is not None:
            values, others = values.t(), torch.linalg.vector_norm(dequantized(x, torch.float32), dim=0)
        rows = self.call.sampled(values, self.plan.slots[slot], g, share, 1 if x is None else 2, others)
        return Operand(rows if x is None else rows.t())


def product_without_gradient(x: Tensor, weight: Tensor, bias: Tensor | None, rules: Rules) -> Tensor:
    """`QuantizedMatmul` where no backward comes."""
    a, b = rules.operand(x, 0, forward=True)[0], rules.operand(weight, 1, forward=True)[0]
    return rules.product(a, b, 0, bias, x.dtype)


class QuantizedMatmul(torch.autograd.Function):
    """Y = X·Wᵀ + b with X [T, K], W [N, K] under the rules of a call.

    Saved for backward, as far as gradients are wanted: W, which is a parameter, and the wgrad copy of X as codes. X
    itself where that copy has no codes, because it would be as large and shared with nobody; and under
    `compress_activations`, which keeps one compressed X for all its readers. Backward then makes the copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rules: Rules) -> Tensor:
        plan, ctx.rules = rules.plan, rules
        ctx.x_dtype, ctx.w_dtype = x.dtype, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        keeps_codes = ctx.needs_input_grad[1] and has_codes(plan.slots[5]) and not saved_are_compressed()
        made = rules.both(x, 0, 5) if keeps_codes and not plan.requantize else None
        a = rules.operand(x, 0, forward=True)[0] if made is None else made[0]
        b, scale = rules.operand(weight, 1, forward=True)
        y = rules.product(a, b, 0, bias, x.dtype)
        del b
        kept: tuple[Tensor | None, ...] = ()
        ctx.coded = None
        if ctx.needs_input_grad[1]:
            source = rules.restored(a, 0, x) if plan.requantize else x
            if keeps_codes:
                copy = rules.operand(source.t(), 5, forward=True)[0] if made is None else made[1]
                ctx.coded, kept = (copy.scheme, copy.gain), (copy.values, copy.scale, copy.outer)
            else:
                kept = (source,)
        dgrad = (weight, scale if plan.requantize else None) if ctx.needs_input_grad[0] else (None, None)
        ctx.save_for_backward(*dgrad, *kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kind = grads[0].device.type
        # Compilers run a backward under the autocast of its forward, users sometimes under theirs.
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return (*_gradients(ctx, grads[0]), None)
        return (*_gradients(ctx, grads[0]), None)


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of X, W and the bias."""
    rules: Rules = ctx.rules
    weight, scale, *kept = ctx.saved_tensors
    grad_x = grad_w = grad_b = None
    made = rules.both(g, 2, 4) if ctx.needs_input_grad[0] and ctx.needs_input_grad[1] else None
    if ctx.needs_input_grad[0]:
        source = weight
        if rules.plan.requantize:
            source = rules.restored(rules.call.operand(weight, rules.plan.slots[1], 1, scale), 1, weight)
        a = rules.operand(g, 2)[0] if made is None else made[0]
        b = rules.operand(source.t(), 3)[0]
        grad_x = rules.product(rules.sampled(a, 2, g), b, 1, None, ctx.x_dtype)
        del a, b, source
    if ctx.needs_input_grad[1]:
        a = rules.operand(g.t(), 4)[0] if made is None else made[1]
        b = rules.operand(kept[0].t(), 5)[0] if ctx.coded is None else Operand(*kept, *ctx.coded)
        grad_w = rules.product(rules.sampled(a, 4, g, b), b, 2, None, ctx.w_dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
        sums = torch.float64 if g.dtype == torch.float64 else torch.float32
        grad_b = g.sum(0, dtype=sums).to(ctx.bias_dtype)
    return grad_x, grad_w, grad_b
