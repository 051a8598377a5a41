"""`LoRALinear`: a frozen linear layer and a trained product of two narrow matrices (LoRA, arXiv 2106.09685).

    y = base(x) + (α / r) · dropout(x) · Aᵀ · Bᵀ          A [r, K], B [N, r]

A starts as `nn.Linear` starts its weight, B at zero, so that the layer starts as its base. On a base of NF4 codes with
double-quantised scales this is QLoRA (arXiv 2305.14314): the gradient of x goes through the decoded base, of which
nothing but the codes is kept between forward and backward.
"""

from __future__ import annotations

from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.inference.stored import DTYPES, as_dtype
from narrowgauge.nn.transposed_linear import is_transposed_linear


def is_adaptable(layer: nn.Module) -> bool:
    """Whether `layer` can be the base of an adapter."""
    return isinstance(layer, nn.Linear | InferenceLinear) or is_transposed_linear(layer)


def weight_shape(layer: nn.Module) -> tuple[int, int]:
    """(N, K) of a layer that can be a base."""
    given: Any = layer
    if isinstance(layer, nn.Linear | InferenceLinear):
        return layer.out_features, layer.in_features
    return given.weight.shape[1], given.weight.shape[0]


def check_settings(rank: Any, alpha: Any, dropout: Any, dtype: Any) -> None:
    """TypeError and ValueError for what `LoRALinear` cannot take; dtype may be None."""
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"rank: expected an int, got {rank!r}")
    for name, number in (("alpha", alpha), ("dropout", dropout)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{name}: expected a number, got {number!r}")
    if rank < 1:
        raise ValueError(f"rank: expected 1 or more, got {rank}")
    if not isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {alpha}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: expected 0 or more and below 1, got {dropout}")
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype: got {dtype!r}, accepted: {', '.join(map(str, DTYPES))}")


class LoRALinear(nn.Module):
    """Input [..., K] → [..., N], in the dtype that `base` gives.

    base: `nn.Linear`, `QuantLinear`, `InferenceLinear` or transformers' Conv1D; its parameters are frozen here, and its
    own forward runs. rank: r, 1 or more. alpha: α. dropout: share of x that the adapter does not see in training.
    dtype: of A and B, by default that of the base's weight.

    Parameters: lora_A [r, K] and lora_B [N, r]. `state_dict` has the base's entries under `base.`.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not is_adaptable(base):
            raise TypeError(f"base: expected a linear layer, got {type(base).__name__}")
        device, kept = _place(base)
        given = kept if dtype is None else dtype
        check_settings(rank, alpha, dropout, given)
        outputs, inputs = weight_shape(base)
        self.base, self.rank, self.alpha = base, rank, alpha
        self.in_features, self.out_features = inputs, outputs
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, dtype=given, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, dtype=given, device=device))
        if inputs:
            nn.init.kaiming_uniform_(self.lora_A, a=sqrt(5))
        base.requires_grad_(False)
        self.train(base.training)

    @classmethod
    def from_place(cls, place: nn.Module, *, rank: int, alpha: float, dropout: float, dtype: str) -> LoRALinear:
        """An adapter around `place`, or around the base of the one that is there. For files."""
        base = place.base if isinstance(place, LoRALinear) else place
        if not is_adaptable(base):
            raise ValueError(f"model: a {type(base).__name__} is in the place of a LoRALinear, expected a linear layer")
        return cls(base, rank, alpha, dropout, dtype=as_dtype(dtype))

    @property
    def quantization(self) -> dict[str, Any]:
        """What files need to make an adapter like this one around its base: arguments of `from_place`."""
        dtype = str(self.lora_A.dtype).removeprefix("torch.")
        return {"rank": self.rank, "alpha": self.alpha, "dropout": self.dropout.p, "dtype": dtype}

    @property
    def scaling(self) -> float:
        """α / r."""
        return self.alpha / self.rank

    def forward(self, input: Tensor) -> Tensor:
        """Raises what the base raises."""
        y: Tensor = self.base(input)
        narrow = F.linear(self.dropout(input).to(self.lora_A.dtype), self.lora_A)
        return y + (F.linear(narrow, self.lora_B) * self.scaling).to(y.dtype)

    def delta(self) -> Tensor:
        """(α / r) · B · A, [N, K] float32 (float64 for float64 adapters), without gradient."""
        a, b = self.lora_A.detach(), self.lora_B.detach()
        wide = torch.float64 if a.dtype == torch.float64 else torch.float32
        return (b.to(wide) @ a.to(wide)) * self.scaling

    def merged(self) -> nn.Module:
        """The base with the adapter in its weight, added in float32 and rounded once to the weight's dtype.

        A base in high precision (and a QuantLinear) gets a new weight parameter and is returned; a base of codes is
        decoded, and becomes an `nn.Linear`. ValueError for a base whose weight is rotated.
        """
        base: Any = self.base
        if isinstance(base, InferenceLinear):
            return _decoded(base, self.delta())
        delta = self.delta().t() if is_transposed_linear(base) else self.delta()
        weight = base.weight.detach()
        base.weight = nn.Parameter((weight.to(delta.dtype) + delta).to(weight.dtype))
        base.requires_grad_(True)
        return self.base

    @property
    def weight(self) -> Tensor:
        """The base's weight: what code that looks at a linear layer's dtype or device finds."""
        given: Any = self.base
        return given.weight

    def extra_repr(self) -> str:
        """Rank, alpha and dtype of the adapter."""
        return f"rank={self.rank}, alpha={self.alpha:g}, dtype={str(self.lora_A.dtype).removeprefix('torch.')}"


def _place(base: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the base's weight."""
    given: Any = base
    return (
        (base.codes.device, base.dtype)
        if isinstance(base, InferenceLinear)
        else (given.weight.device, given.weight.dtype)
    )


def _decoded(base: InferenceLinear, delta: Tensor) -> nn.Linear:
    if base.is_rotated:
        raise ValueError(f"base: its weight is rotated, so that an adapter cannot be added to it: {base.extra_repr()}")
    plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    weight = base.dequantize(torch.float32).to(delta.dtype) + delta
    plain.weight = nn.Parameter(weight.to(base.dtype))
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.to(base.dtype, copy=True))
    plain.train(base.training)
    return plain
