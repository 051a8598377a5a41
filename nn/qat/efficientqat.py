"""EfficientQAT's quantiser: asymmetric groups with a trained scale and zero point.

    ŵ = s · (c − z),  c = clamp(RN(w / s) + z, 0, 2^b − 1),  z = clamp(RN(zero), 0, 2^b − 1)
    begin     s = (max − min) / (2^b − 1),  zero = RN(−min / s), kept in [−1e4, 1e4],  per group of G along a row
    s is kept in [1e-4, 1e4]

Every rounding and the clamps of s and z are passed straight through; the clamp of the integer is a real one:

    ∂ŵ/∂w = 1 where 0 ≤ RN(w / s) + z ≤ 2^b − 1, 0 outside
    ∂ŵ/∂s = RN(w / s) − w / s inside, c − z outside
    ∂ŵ/∂zero = 0 inside, −s outside

With the integers frozen (the second phase) ŵ = s · (c − z) for stored c and z, and ∂ŵ/∂s = c − z.
Chen et al., arXiv 2407.11062, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.nn.qat.checks import check_bits
from narrowgauge.nn.qat.groups import Granularity, check_granularity
from narrowgauge.nn.qat.quantizer import Scaled, WeightQuantizer, spread
from narrowgauge.nn.straight_through import high_precision

SCALES = (1e-4, 1e4)
ZEROS = (-1e4, 1e4)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
        wide = high_precision(w)
        s, z = effective(scale, zero, top, wide.dtype)
        ratio = wide * (1.0 / s)
        shifted = ratio.round() + z
        codes = shifted.clamp(0, top)
        ctx.save_for_backward(ratio, shifted == codes, codes - z, s, scale, zero)
        return ((codes - z) * s).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        ratio, inside, level, s, scale, zero = ctx.saved_tensors
        wide = grad.to(ratio.dtype)
        of_scale = (wide * torch.where(inside, level - ratio, level)).sum_to_size(scale.shape)
        of_zero = (wide * ~inside * -s).sum_to_size(zero.shape)
        return grad * inside, of_scale.to(scale.dtype), of_zero.to(zero.dtype), None


def effective(scale: Tensor, zero: Tensor, top: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(s, z) that the formula uses: clamped, z rounded; top: 2^b − 1."""
    return scale.to(dtype).clamp(*SCALES), zero.to(dtype).round().clamp(0, top)


def affine_quantize(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """ŵ with EfficientQAT's gradients for all three; scale and zero broadcast against `w`. Shape and dtype of `w`."""
    result: Tensor = _Affine.apply(w, scale, zero, 2**bits - 1)  # type: ignore[no-untyped-call]
    return result


class EfficientQATWeight(WeightQuantizer):
    """Weights of `bits` (2 to 8) in groups along each row, or per row or tensor; s and zero are parameters."""

    scale: nn.Parameter
    zero: nn.Parameter
    integers: Tensor | None

    def __init__(self, bits: int = 4, group: Granularity = 64) -> None:
        super().__init__()
        check_bits("bits", bits, range(2, 9))
        self.bits, self.top = bits, 2**bits - 1
        self.granularity = check_granularity(group)
        self.element = f"uint{bits}"
        self.register_buffer("integers", None)

    def _bind(self, weight: Tensor) -> None:
        tiles = self.groups(weight).shape[:2]
        dtype = high_precision(weight).dtype
        self.scale = nn.Parameter(torch.ones(tiles, device=weight.device, dtype=dtype))
        self.zero = nn.Parameter(torch.zeros(tiles, device=weight.device, dtype=dtype))

    @torch.no_grad()
    def reset_(self, weight: Tensor) -> None:
        tiles = self.groups(high_precision(weight))
        least = tiles.amin(2)
        scale = ((tiles.amax(2) - least) / self.top).clamp(*SCALES)
        self.scale.copy_(scale)
        self.zero.copy_((-least / scale).round().clamp(*ZEROS))

    @torch.no_grad()
    def freeze_integers_(self, weight: Tensor) -> None:
        """From now on the codes of `weight` as it is stay, and of the quantiser's parameters only s trains."""
        self.integers = self.codes(weight).codes
        self.zero.requires_grad_(False)

    @property
    def state(self) -> dict[str, Any]:
        return {"frozen": self.integers is not None}

    def take_state_(self, state: Mapping[str, Any], weight: Tensor) -> None:
        if state["frozen"] and self.integers is None:
            self.freeze_integers_(weight)
        elif not state["frozen"]:
            self.integers = None
            self.zero.requires_grad_(True)

    def scaled(self, weight: Tensor) -> Scaled:
        scale, zero = effective(self.scale, self.zero, self.top, weight.dtype)
        if self.integers is not None:
            return Scaled(self.integers.to(weight.dtype), scale, zero)
        ratio = (self.groups(weight) * (1.0 / scale).unsqueeze(2)).round()
        return Scaled((ratio + zero.unsqueeze(2)).reshape(weight.shape), scale, zero)

    def forward(self, weight: Tensor) -> Tensor:
        if self.integers is not None:
            dtype = high_precision(weight).dtype
            scale, zero = effective(self.scale, self.zero, self.top, dtype)
            # The clamp of s is passed straight through here, too.
            scale = self.scale.to(dtype) + (scale - self.scale.to(dtype)).detach()
            levels = self.integers.to(dtype) - spread(zero, weight, self.tile)
            return (levels * spread(scale, weight, self.tile)).to(weight.dtype)
        tiles = self.groups(weight)
        values = affine_quantize(tiles, self.scale.unsqueeze(2), self.zero.unsqueeze(2), self.bits)
        return values.reshape(weight.shape)

    @torch.no_grad()
    def border_distance(self, weight: Tensor) -> Tensor:
        wide = high_precision(weight)
        scale, zero = effective(self.scale, self.zero, self.top, wide.dtype)
        y = self.groups(wide) / scale.unsqueeze(2) + zero.unsqueeze(2)
        return self.grid.border_distance(y.reshape(wide.shape))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, group={self.granularity}, frozen={self.integers is not None}"
