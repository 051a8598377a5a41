"""The element- and row-wise operations of a transformer block: forward, and gradients from the inputs alone.

| operation | y                                   | gradients                                                     |
|-----------|-------------------------------------|---------------------------------------------------------------|
| RMSNorm   | n·w, n = x·r, r = 1/√(mean x² + ε)  | dx = r(h − n·mean(h·n)), h = g·w; dw = Σ g·n                  |
| LayerNorm | n·w + b, n = (x − mean x)·r         | dx = r(h − mean h − n·mean(h·n)); dw = Σ g·n; db = Σ g        |
| GELU      | x·Φ(x), or its tanh form            | torch's own formula                                           |
| SiLU      | x·σ(x)                              | torch's own formula                                           |
| SwiGLU    | silu(gate)·up (arXiv 2002.05202)    | dgate = silu'(gate)(g·up); dup = g·silu(gate)                 |

Calling an operation gives the bits of the plain module. `gradients` computes in float32 (float64 for float64) and takes
the activations in that dtype; nothing but them and the parameters is needed, so nothing else has to be saved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which gradients are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Operation(ABC):
    """y = op(*activations, *parameters), where the first `activations` arguments are what gets compressed."""

    activations: ClassVar[int] = 1

    @property
    def row_by_row(self) -> bool:
        """Whether rows [..., K] of the output depend on the same rows of the activations alone."""
        return True

    @abstractmethod
    def __call__(self, *tensors: Any) -> Tensor:
        """The output, in the precision and with the bits of the plain module."""

    @abstractmethod
    def gradients(self, grad: Tensor, *tensors: Any) -> Gradients:
        """One gradient for each argument (None for a parameter that is None), in the dtype of `grad`, which is that of
        the activations."""


@dataclass(frozen=True)
class _Norm(Operation):
    shape: tuple[int, ...]
    eps: float | None

    @property
    def row_by_row(self) -> bool:
        return len(self.shape) == 1

    def _gradients(self, grad: Tensor, x: Tensor, weight: Tensor | None, *, centred: bool) -> tuple[Tensor, Tensor]:
        """(dx, g·n), n the normalised rows."""
        axes = tuple(range(-len(self.shape), 0))
        if centred:
            x = x - x.mean(axes, keepdim=True)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        rstd = torch.rsqrt(x.square().mean(axes, keepdim=True) + eps)
        n = x * rstd
        h = grad if weight is None else grad * weight.to(grad.dtype)
        inner = h - n * (h * n).mean(axes, keepdim=True)
        if centred:
            inner = inner - h.mean(axes, keepdim=True)
        return rstd * inner, grad * n

    def _summed(self, per_row: Tensor) -> Tensor:
        return per_row.reshape(-1, *self.shape).sum(0)


@dataclass(frozen=True)
class RMSNorm(_Norm):
    """x [..., *shape], weight [*shape] or None; `eps` None: that of float32 (float64 for float64), as in torch."""

    def __call__(self, *tensors: Any) -> Tensor:
        x, weight = tensors
        return F.rms_norm(x, self.shape, weight, self.eps)

    def gradients(self, grad: Tensor, *tensors: Any) -> Gradients:
        x, weight = tensors
        dx, per_row = self._gradients(grad, x, weight, centred=False)
        return dx, None if weight is None else self._summed(per_row)


@dataclass(frozen=True)
class LlamaRMSNorm(RMSNorm):
    """RMSNorm as Llama models on Hugging Face have it: float32 inside, rounded before the weight multiplies."""

    eps: float

    def __call__(self, *tensors: Any) -> Tensor:
        x, weight = tensors
        n = x.to(torch.float32)
        n = n * torch.rsqrt(n.pow(2).mean(-1, keepdim=True) + self.eps)
        return weight * n.to(x.dtype)


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """x [..., *shape], weight and bias [*shape] or None."""

    eps: float = 1e-5

    def __call__(self, *tensors: Any) -> Tensor:
        x, weight, bias = tensors
        return F.layer_norm(x, self.shape, weight, bias, self.eps)

    def gradients(self, grad: Tensor, *tensors: Any) -> Gradients:
        x, weight, bias = tensors
        dx, per_row = self._gradients(grad, x, weight, centred=True)
        return (
            dx,
            None if weight is None else self._summed(per_row),
            None if bias is None else self._summed(grad),
        )


@dataclass(frozen=True)
class GELU(Operation):
    """x of any shape; `approximate`: none or tanh."""

    approximate: str = "none"

    def __call__(self, *tensors: Any) -> Tensor:
        return F.gelu(tensors[0], approximate=self.approximate)

    def gradients(self, grad: Tensor, *tensors: Any) -> Gradients:
        return (torch.ops.aten.gelu_backward(grad, tensors[0], approximate=self.approximate),)


@dataclass(frozen=True)
class SiLU(Operation):
    """x of any shape."""

    def __call__(self, *tensors: Any) -> Tensor:
        return F.silu(tensors[0])

    def gradients(self, grad: Tensor, *tensors: Any) -> Gradients:
        return (torch.ops.aten.silu_backward(grad, tensors[0]),)


@dataclass(frozen=True)
class SwiGLU(Operation):
    """gate and up of one shape."""

    activations: ClassVar[int] = 2

    def __call__(self, *tensors: Any) -> Tensor:
        gate, up = tensors
        return F.silu(gate) * up

    def gradients(self, grad: Tensor, *tensors: Any) -> Gradients:
        gate, up = tensors
        return torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)
