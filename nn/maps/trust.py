"""`trustC`: a fixed Hadamard rotation in blocks of 32, and no gradient for what its quantisation clips (Quartet, arXiv
2505.14669, after QuEST, arXiv 2502.05003).

    forward    x_H = x H
    backward   ∂L/∂x = (M ⊙ ∂L/∂x_H) Hᵀ,   M = |x_H| < 6 s

with s the scale that the stage `rmsC` gives the E2M1 codes of x_H. For the weight and the input of one layer, so that
their product stays what it was. Of K columns the last K mod 32 are rotated in smaller blocks, powers of two.

`torch.ops.narrowgauge.trusted(x_H, clip) -> Tensor`: M, one call to compilers (blocks of 32 have uneven edges, more
than inductor's loop splitting takes).
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.formats.stages import Rms
from narrowgauge.formats.stages.rms import BLOCK
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.nn.maps.map import Map
from narrowgauge.nn.stages.rotation import rotated
from narrowgauge.nn.stages.scales import rms_scales


def rotate_columns(x: Tensor) -> Tensor:
    """x [rows, K] times H, float32, whatever K; its own inverse."""
    parts, start, columns = [], 0, x.shape[1]
    size = BLOCK
    while start < columns:
        while size > columns - start:
            size //= 2
        width = (columns - start) // size * size
        part = x[:, start : start + width]
        parts.append(part.float() if size == 1 else rotated(part, size, None))
        start += width
    return torch.cat(parts, dim=1) if len(parts) != 1 else parts[0]


SCHEME = parse(f"e2m1fn/1x{BLOCK}:static=1.0")


def _trusted(turned: Tensor, clip: float) -> Tensor:
    return turned.abs() < SCHEME.element.max * rms_scales(Rms(clip), turned, SCHEME)


LIBRARY.define("trusted(Tensor turned, float clip) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.impl("trusted", _trusted, "CompositeExplicitAutograd")
torch.library.register_fake(
    "narrowgauge::trusted", lambda turned, clip: torch.empty_like(turned, dtype=torch.bool), lib=LIBRARY
)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: float) -> Tensor:
        turned = rotate_columns(x)
        ctx.save_for_backward(torch.ops.narrowgauge.trusted(turned, clip))
        return turned.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (trusted,) = ctx.saved_tensors
        return rotate_columns(grads[0] * trusted).to(grads[0].dtype), None


class Trust(Map):
    """clip: C of the stage `rms`, above 0."""

    EXAMPLE = "trust2.92247856"

    def __init__(self, clip: float) -> None:
        super().__init__()
        self.stage = Rms(clip)

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        if not text.startswith("trust"):
            return None
        try:
            return cls(float(text[5:]))
        except ValueError:
            raise ValueError(f"map: {text!r} is not trust and a number above 0, such as {cls.EXAMPLE}") from None

    def forward(self, x: Tensor) -> Tensor:
        """x_H of x [rows, K]."""
        if not x.numel():
            return x
        result: Tensor = _Rotate.apply(x, self.stage.clip)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        return f"clip={self.stage.clip:g}"
