"""`qemaβ`: weights are rounded to the side on which their moving average lies (Q-EMA of TetraJet, arXiv 2502.20853).

    e ← β e + (1 - β) w, once in each training forward        y = w / s, s the scales of w
    ŵ = s · (the neighbour of y on the grid, below or above, that is nearer to e / s; above at a tie in magnitude)

A weight that swings about the border between two levels changes its code with every swing; its average stays on one
side. Until e has seen ten forwards ŵ is rounded to nearest. The map hands ŵ on, whose codes the slot finds again
because its scales are powers of two. The gradient goes straight through. Gradient accumulation over n forwards makes
the average shorter: β^(1/n) keeps it.

`torch.ops.narrowgauge.qema(x, ema, steps, scheme, decay, moves) -> Tensor`: one forward, which writes ema and steps
unless backward repeats it; one call to compilers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.kernels.tiles import multiply_tiles
from narrowgauge.nn.calls import in_backward
from narrowgauge.nn.maps.map import Map
from narrowgauge.nn.maps.units import in_units, levels_of, weight_scheme
from narrowgauge.nn.straight_through import straight_through

WARM_UP = 10


def towards(y: Tensor, average: Tensor, levels: Tensor) -> Tensor:
    """Of the two levels around each y the one nearer to `average`; y where it is a level, the last one beyond it."""
    magnitude, side = y.abs(), torch.where(y < 0, -average, average)
    positive = levels[levels >= 0]
    upper = torch.bucketize(magnitude, positive).clamp(max=len(positive) - 1)
    high = positive[upper]
    low = torch.where(high > magnitude, positive[(upper - 1).clamp(min=0)], high)
    return torch.copysign(torch.where(side >= 0.5 * (low + high), high, low), y)


class QEma(Map):
    """decay: β, from 0 to below 1; 0.9972 to 0.999 in the released runs. Buffers: ema [N, K] float32, steps."""

    EXAMPLE = "qema0.998"
    ema: Tensor
    steps: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"qema: expected a number from 0 to below 1, got {decay}")
        self.decay = decay

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        if not text.startswith("qema"):
            return None
        try:
            return cls(float(text[4:]))
        except ValueError:
            raise ValueError(f"map: {text!r} is not qema and a number from 0 to below 1, such as qema0.998") from None

    def prepare(self, weight: Tensor, scheme: str | None) -> None:
        self.scheme = weight_scheme(scheme, "qema")
        if not self.scheme.rule.power_of_two:
            raise ValueError(f"qema: w_fprop has power-of-two scales, such as mxfp4, got {scheme}")
        if weight.dim() != 2:
            raise ValueError(f"qema: goes with weights of two axes, got the shape {tuple(weight.shape)}")
        kept = weight.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self.register_buffer("ema", kept)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=weight.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The average moves by less than the last bit of a narrow dtype: it stays float32 whatever the layer becomes.
        kept = self.ema
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.ema = kept.to(self.ema.device) if self.ema.dtype != torch.float32 else self.ema
        return self

    def forward(self, x: Tensor) -> Tensor:
        """ŵ of x [N, K]."""
        moves, weight = self.training and torch.is_grad_enabled(), x.detach().contiguous()
        mapped = torch.ops.narrowgauge.qema(weight, self.ema, self.steps, str(self.scheme), self.decay, moves)
        return straight_through(x, mapped)

    @torch.no_grad()
    def values(self, x: Tensor) -> Tensor:
        """ŵ in float32, whatever the number of steps."""
        return _values(x, self.ema, self.scheme)

    def extra_repr(self) -> str:
        return f"decay={self.decay:g}"


def _values(x: Tensor, ema: Tensor, scheme: Scheme) -> Tensor:
    y, factors = in_units(x, scheme)
    average = multiply_tiles(ema.clone(), factors.reciprocal(), scheme.factor_tile)
    return multiply_tiles(towards(y, average, levels_of(scheme, x)), factors, scheme.factor_tile)


def _qema(x: Tensor, ema: Tensor, steps: Tensor, scheme: str, decay: float, moves: bool) -> Tensor:
    if moves and not in_backward():
        ema.lerp_(x.float(), 1.0 - decay)
        steps.add_(1)
    return x.clone() if int(steps) < WARM_UP else _values(x, ema, parse(scheme)).to(x.dtype)


LIBRARY.define(
    "qema(Tensor x, Tensor(a!) ema, Tensor(b!) steps, str scheme, float decay, bool moves) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("qema", _qema, "CompositeExplicitAutograd")
torch.library.register_fake("narrowgauge::qema", lambda x, *rest: torch.empty_like(x), lib=LIBRARY)
