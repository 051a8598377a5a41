"""`tanh` and `clipA`: maps that bound a weight or an input, with the gradients of what they compute.

tanh    w ↦ tanh(w) / max |tanh(w)|            DoReFa weights (arXiv 1606.06160, eq. 9); the maximum has a gradient, too
clipA   x ↦ clamp(x, -A, A)                    bounded activations; no gradient beyond A (WAGE, DoReFa)
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.nn.maps.map import Map


def bounded_tanh(x: Tensor) -> Tensor:
    """tanh x / max |tanh x| in [-1, 1]; zeros stay zeros."""
    bounded = torch.tanh(x)
    return bounded / bounded.abs().amax().clamp(min=SMALLEST_SCALE)


class Tanh(Map):
    """tanh, scaled so that the largest magnitude is 1."""

    EXAMPLE = "tanh"

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        return cls() if text == "tanh" else None

    def forward(self, x: Tensor) -> Tensor:
        """Values in [-1, 1]."""
        return bounded_tanh(x)


class Clip(Map):
    """Values beyond ±limit are cut."""

    EXAMPLE = "clip1"

    def __init__(self, limit: float) -> None:
        super().__init__()
        if not 0.0 < limit < float("inf"):
            raise ValueError(f"clip: expected a limit above 0, got {limit}")
        self.limit = limit

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        if not text.startswith("clip"):
            return None
        try:
            return cls(float(text[4:]))
        except ValueError:
            raise ValueError(f"map: {text!r} is not clip and a number above 0, such as clip1") from None

    def forward(self, x: Tensor) -> Tensor:
        """Values in [-limit, limit]."""
        return torch.clamp(x, -self.limit, self.limit)
