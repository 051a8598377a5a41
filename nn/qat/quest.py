"""QuEST: Hadamard rotation, Gaussian clipping, mid-rise levels and a trust mask.

    x_H = H x in blocks of (at most) 128 along the last axis,  σ = rms of the row,  α = c_b σ
    L = 2^b levels from −α to α, step 2α / (L − 1), none of them zero    (1.58 bits: L = 3)
    trust M = |x̂_H − x_H| ≤ half a step
    backward ∂L/∂x = Hᵀ (M ⊙ ∂L/∂x̂_H)

c_b is the clipping point of least squared error of N(0, 1), as published. A linear layer multiplies rotated inputs by
rotated weights, H being orthonormal. Panferov et al., arXiv 2502.05003, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.nn.qat.checks import check_bits
from narrowgauge.nn.qat.hadamard import check_block, hadamard, largest_block
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, Scaled, WeightQuantizer
from narrowgauge.nn.straight_through import high_precision, straight_through

CLIPPING = {
    1: 0.7979, 1.58: 1.2240, 2: 1.4935, 3: 2.0511, 4: 2.5139, 5: 2.9161, 6: 3.2766, 7: 3.6010, 8: 3.8849,
}  # fmt: skip
"""c_b by bits."""
BLOCK = 128
SMALLEST = 2.0**-100


def level_count(bits: float) -> int:
    """Levels of a grid: 2^bits, 3 for 1.58."""
    return 3 if bits == 1.58 else int(2**bits)


def _half_range(x: Tensor, bits: float) -> Tensor:
    return CLIPPING[bits] * x.square().mean(-1, keepdim=True).sqrt().clamp_min(SMALLEST)


def quest_trust(x: Tensor, bits: float) -> Tensor:
    """x̂ of `x` [..., K], which is already rotated; the gradient passes where |x̂ − x| is at most half a step."""
    check_bits("bits", bits, CLIPPING)
    with torch.no_grad():
        wide = high_precision(x)
        top = level_count(bits) - 1
        step = 2 * _half_range(wide, bits) / top
        codes = (wide * (1.0 / step) + top / 2).round().clamp(0, top)
        values = (codes - top / 2) * step
        trusted = (values - wide).abs() <= step / 2
    return straight_through(x, values.to(x.dtype), trusted)


class QuestWeight(WeightQuantizer):
    """Rotated weights of 1, 1.58 or 2 to 8 bits, one scale per output channel. The values are in the rotated space.

    rotate: the Hadamard block, 0 for none; by default the largest power of two up to 128 that divides the inputs.
    """

    granularity = "row"

    def __init__(self, bits: float = 4, rotate: int | None = None) -> None:
        super().__init__()
        check_bits("bits", bits, CLIPPING)
        self.bits, self.top = bits, level_count(bits) - 1
        self.element = {1: "binary", 1.58: "ternary"}.get(bits, f"uint{bits}")
        self._asked = rotate

    def _bind(self, weight: Tensor) -> None:
        if self._asked is None:
            block = largest_block(weight.shape[1], BLOCK)
            self.rotate = 0 if block == 1 else block
        else:
            if self._asked:
                check_block(self._asked, weight.shape[1])
            self.rotate = self._asked

    def scaled(self, weight: Tensor) -> Scaled:
        return self._scaled(hadamard(weight, self.rotate))

    def _scaled(self, rotated: Tensor) -> Scaled:
        half_range = _half_range(rotated, self.bits)
        if self.bits < 2:
            return Scaled(rotated * (1.0 / half_range), half_range)
        step = 2 * half_range / self.top
        middle = torch.full_like(step, self.top / 2)
        return Scaled(rotated * (1.0 / step) + middle, step, middle)

    def forward(self, weight: Tensor) -> Tensor:
        rotated = hadamard(high_precision(weight), self.rotate)
        with torch.no_grad():
            scaled = self._scaled(rotated)
            values = self.values(scaled)
            half_step = _half_range(rotated, self.bits) / self.top
            trusted = (values - rotated).abs() <= half_step
        return straight_through(rotated, values, trusted).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, rotate={self.rotate}"


class QuestActivation(ActivationQuantizer):
    """Activations of 1, 1.58 or 2 to 8 bits, one scale per row; the layer has rotated them like its weight."""

    def __init__(self, bits: float = 4) -> None:
        super().__init__()
        check_bits("activation_bits", bits, CLIPPING)
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        return quest_trust(x, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"
