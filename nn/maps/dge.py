"""`dgeK`: the differentiable gradient estimator of FP4 weights (arXiv 2501.17116, section 3.1).

    forward    w
    backward   ∂L/∂w = ∂L/∂ŵ · min((1/K) |2 t / δ - 1|^(1/K - 1), 3)

with y = w / s in units of the weight's scales, t the distance of y from the level below and δ the gap between the two
levels around it: the derivative of a smooth staircase through the levels, steep where rounding jumps, flat at the
levels, those beyond the last one included.

`torch.ops.narrowgauge.dge_slope(x, scheme, k) -> Tensor`: the factor of each weight, one call to compilers.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.nn.maps.map import Map
from narrowgauge.nn.maps.units import in_units, levels_of, weight_scheme
from narrowgauge.nn.straight_through import straight_through

CAP = 3.0


def staircase_slope(y: Tensor, levels: Tensor, k: float, cap: float = CAP) -> Tensor:
    """The capped derivative at `y` for ascending `levels`; shape and dtype of y."""
    y = torch.minimum(torch.maximum(y, levels[0]), levels[-1])
    upper = torch.bucketize(y, levels, right=True).clamp(1, len(levels) - 1)
    below, above = levels[upper - 1], levels[upper]
    position = 2.0 * (y - below) / (above - below) - 1.0
    return (position.abs().pow(1.0 / k - 1.0) / k).clamp(max=cap)


def _slope(x: Tensor, scheme: str, k: float) -> Tensor:
    spec = parse(scheme)
    return staircase_slope(in_units(x, spec)[0], levels_of(spec, x), k)


LIBRARY.define("dge_slope(Tensor x, str scheme, float k) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.impl("dge_slope", _slope, "CompositeExplicitAutograd")
torch.library.register_fake(
    "narrowgauge::dge_slope", lambda x, scheme, k: torch.empty_like(x, dtype=torch.float32), lib=LIBRARY
)


class DGE(Map):
    """k: at least 1, which is the straight-through estimator; 5 in the paper."""

    EXAMPLE = "dge5"

    def __init__(self, k: float) -> None:
        super().__init__()
        if not 1.0 <= k < float("inf"):
            raise ValueError(f"dge: expected a number of at least 1, got {k}")
        self.k = k

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        if not text.startswith("dge"):
            return None
        try:
            return cls(float(text[3:]))
        except ValueError:
            raise ValueError(f"map: {text!r} is not dge and a number of at least 1, such as dge5") from None

    def prepare(self, weight: Tensor, scheme: str | None) -> None:
        self.scheme = weight_scheme(scheme, "dge")

    def forward(self, x: Tensor) -> Tensor:
        """x [N, K] as it is."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x
        return straight_through(x, x.detach(), torch.ops.narrowgauge.dge_slope(x.detach(), str(self.scheme), self.k))

    def extra_repr(self) -> str:
        return f"k={self.k:g}"
