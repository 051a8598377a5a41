"""PACT: activations clipped at a learned α.

    y = clip(x, 0, α),   x̂ = RN(y / s) · s,   s = α / (2^k − 1)
    ∂x̂/∂x = 1[0 ≤ x < α]        ∂x̂/∂α = 1[x ≥ α]        loss += λ · Σ α²  (`pact_penalty`)

Choi et al., arXiv 1805.06085, equations 1 to 3. Its weights are DoReFa's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.nn.qat.checks import check_bits, check_positive
from narrowgauge.nn.qat.quantizer import ActivationQuantizer
from narrowgauge.nn.straight_through import high_precision


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, top: int) -> Tensor:
        wide = high_precision(x)
        ctx.save_for_backward(x, alpha)
        scale = alpha.to(wide.dtype) / top
        codes = (wide * (1.0 / scale)).round().clamp(0, top)
        return (codes * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, alpha = ctx.saved_tensors
        above = x >= alpha
        inside = (x >= 0) & ~above
        return grad * inside, (high_precision(grad) * above).sum().to(alpha.dtype).reshape(alpha.shape), None


def pact_quantize(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """x̂ of `x` (any shape) for a scalar α > 0, with PACT's gradients for both; shape and dtype of `x`."""
    result: Tensor = _Pact.apply(x, alpha, 2**bits - 1)  # type: ignore[no-untyped-call]
    return result


class PACTActivation(ActivationQuantizer):
    """Unsigned activations of `bits` (2 to 8) on [0, α], α a parameter that begins at `alpha`."""

    def __init__(self, bits: int = 4, alpha: float = 6.0) -> None:
        super().__init__()
        check_bits("activation_bits", bits, range(2, 9))
        check_positive("alpha", alpha)
        self.bits = bits
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    @property
    def input_scheme(self) -> str | None:
        scale = self.alpha.detach().float() / (2**self.bits - 1)
        return f"uint{self.bits}:static={float(scale)!r}"

    def forward(self, x: Tensor) -> Tensor:
        return pact_quantize(x, self.alpha, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def pact_penalty(model: nn.Module) -> Tensor:
    """Σ α² over the PACT activations below `model`, to be added to the loss with a factor. ValueError without any."""
    alphas = [module.alpha for module in model.modules() if isinstance(module, PACTActivation)]
    if not alphas:
        raise ValueError("model: has no PACT activation")
    return torch.stack([alpha.square() for alpha in alphas]).sum()
