"""Differentiable gradient estimator: FP4 weights whose straight-through gradient has a shape.

    forward   ŵ = s · e2m1(w / s), s = amax / 6 per output channel
    backward  ∂L/∂w = ∂L/∂ŵ · min((1/k) |2 t / δ − 1|^(1/k − 1), cap)

t is the distance of |w| / s from the next level below, δ the gap between the two levels around it: the derivative of a
smooth staircase that is steep at the rounding borders and flat at the levels. k = 5, cap = 3.
Wang et al., arXiv 2501.17116, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.maps.dge import CAP, staircase_slope
from narrowgauge.nn.qat.checks import check_positive
from narrowgauge.nn.qat.scheme_ste import SchemeWeight
from narrowgauge.nn.straight_through import high_precision, straight_through


class DGEWeight(SchemeWeight):
    """Weights under `scheme` (FP4 per output channel by default) with the shaped gradient; k ≥ 1, cap > 0."""

    def __init__(self, scheme: str = "e2m1fn/row", k: float = 5.0, cap: float = CAP) -> None:
        super().__init__(scheme)
        check_positive("cap", cap)
        if isinstance(k, bool) or not isinstance(k, int | float) or not k >= 1:
            raise ValueError(f"k: got {k!r}, accepted: a number of at least 1")
        self.k, self.cap = float(k), float(cap)

    def slope(self, y: Tensor) -> Tensor:
        """The multiplier of the gradient of scaled weights `y` = w / s, of any shape."""
        levels = torch.tensor(self.grid.magnitudes, device=y.device, dtype=y.dtype)
        return staircase_slope(y.abs(), levels, self.k, self.cap)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            values = fake_quantize(weight, self.text)
            slope = self.slope(self.scaled(high_precision(weight)).y)
        return straight_through(weight, values, slope)

    def extra_repr(self) -> str:
        return f"{self.parsed}, k={self.k}, cap={self.cap}"
