"""Roots of many functions of one variable at once: Chandrupatla's method on tensors.

Source: Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without
using derivatives", Advances in Engineering Software 28 (1997): inverse quadratic interpolation where the three last
points allow it, bisection elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_STEPS = 100


def roots(f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, *, tolerance: float = 1e-13) -> Tensor:
    """A root of each element's function between `a` and `b`, float64 tensors of one shape.

    f: all functions at once, each at its own point. f(a) and f(b) have different signs (or one is 0); where they have
    the same, the result is the end whose value is nearer to 0. tolerance: half the width of the last interval,
    relative to max(1, |root|).
    """
    fa, fb = f(a), f(b)
    best = torch.where(fa.abs() < fb.abs(), a, b)
    best_value = torch.minimum(fa.abs(), fb.abs())
    open_ = (fa.sign() * fb.sign()) < 0
    c, fc = a, fa
    t = torch.full_like(a, 0.5)
    for _ in range(MAX_STEPS):
        if not bool(open_.any()):
            break
        x = a + t * (b - a)
        fx = f(x)
        same = fx.sign() == fa.sign()
        # The root lies between x and the end whose sign is the other.
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        better = open_ & (torch.minimum(fa.abs(), fb.abs()) <= best_value)
        nearer = fa.abs() < fb.abs()
        best = torch.where(better, torch.where(nearer, a, b), best)
        best_value = torch.where(better, torch.minimum(fa.abs(), fb.abs()), best_value)
        width = tolerance * best.abs().clamp(min=1.0) / (b - a).abs()
        open_ = open_ & (width < 0.5) & (best_value > 0)
        t = _fraction(a, b, c, fa, fb, fc)
        t = torch.minimum(torch.maximum(t, width), 1.0 - width).where(width < 0.5, torch.full_like(t, 0.5))
    return best


def _fraction(a: Tensor, b: Tensor, c: Tensor, fa: Tensor, fb: Tensor, fc: Tensor) -> Tensor:
    """Where between a and b the next point is taken."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    quadratic = (phi.square() < xi) & ((1.0 - phi).square() < 1.0 - xi)
    inverse = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return torch.where(quadratic & inverse.isfinite(), inverse, torch.full_like(a, 0.5))
