"""Newton–Schulz orthogonalisation: the nearest semi-orthogonal matrix, roughly, in matrix products alone.

    X ← X / max(|X|_F, eps)        then `steps` times        X ← a X + (b A + c A²) X,   A = X Xᵀ

of the wider orientation (rows <= columns). With X = U diag(s) Vᵀ each step maps every singular value by the odd
polynomial s ← a s + b s³ + c s⁵ and leaves U and V alone, so the result is U diag(φ(s)) Vᵀ with φ the polynomial
applied `steps` times, where an orthogonal one would have ones.

JORDAN are the coefficients of Muon (Keller Jordan, 2024, kellerjordan.github.io/posts/muon): the steepest at zero that
end near one; they do not converge. CONVERGENT is the Taylor quintic, which does, but starts with slope 15/8 instead
of 3.4. `singular_value_range` says between what numbers φ lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

JORDAN = (3.4445, -4.7750, 2.0315)
"""Coefficients (a, b, c) of Muon."""
CONVERGENT = (15 / 8, -10 / 8, 3 / 8)
"""Coefficients whose iteration converges to 1 from (0, 1], cubically."""
MOST_STEPS = 99
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Names of the arithmetics that `orthogonalize` has."""


def orthogonalize(
    x: Tensor,
    steps: int = 5,
    coefficients: Sequence[float] = JORDAN,
    dtype: torch.dtype = torch.bfloat16,
    eps: float = 1e-7,
) -> Tensor:
    """U diag(φ(s)) Vᵀ of each matrix of x [..., m, n], in `dtype`, in which all products are computed.

    The arithmetic is that of torch.optim.Muon for matrices in bfloat16. A matrix of zeros gives zeros. ValueError for
    tensors of fewer than two axes and for options out of range (`check_newton_schulz`).
    """
    check_newton_schulz(steps, coefficients, eps)
    if x.ndim < 2:
        raise ValueError(f"x: expected matrices [..., m, n], got shape {tuple(x.shape)}")
    if x.ndim > 2:
        parts = x.flatten(0, -3).unbind()
        results = [orthogonalize(part, steps, coefficients, dtype, eps) for part in parts]
        return torch.stack(results).view(x.shape) if results else x.to(dtype)
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    y = x.to(dtype)
    y = y.T if tall else y
    y = y / y.norm().clamp(min=eps)
    for _ in range(steps):
        gram = y @ y.T
        y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.T if tall else y


def singular_value_range(
    smallest: float, steps: int = 5, coefficients: Sequence[float] = JORDAN
) -> tuple[float, float]:
    """(least, greatest) φ(s) over s in [smallest, 1]: the singular values of a result whose own, divided by the
    Frobenius norm, are not below `smallest`, in exact arithmetic.

    The ends are attained: the image of an interval is an interval, ended by values at its ends or where a step is
    stationary, 5 c s⁴ + 3 b s² + a = 0. ValueError for `smallest` outside [0, 1].
    """
    if not 0.0 <= smallest <= 1.0:
        raise ValueError(f"smallest: got {smallest}, accepted are numbers in [0, 1]")
    a, b, c = coefficients
    low, high = smallest, 1.0
    for _ in range(steps):
        inner = [s for s in _stationary(a, b, c) if low < s < high]
        values = [s * (a + s * s * (b + s * s * c)) for s in (low, high, *inner)]
        low, high = min(values), max(values)
    return low, high


def _stationary(a: float, b: float, c: float) -> list[float]:
    """Both signs of the s at which the derivative of a s + b s³ + c s⁵ is zero."""
    if c == 0.0:
        squares = [-a / (3 * b)] if b else []
    else:
        inside = 9 * b * b - 20 * a * c
        squares = [(-3 * b + sign * sqrt(inside)) / (10 * c) for sign in (-1, 1)] if inside >= 0 else []
    return [sign * sqrt(square) for square in squares if square > 0 for sign in (-1, 1)]


def check_newton_schulz(steps: int, coefficients: Sequence[float], eps: float) -> None:
    """ValueError, naming the option, for what the iteration cannot be run with."""
    if not 0 < int(steps) <= MOST_STEPS or steps != int(steps):
        raise ValueError(f"ns_steps: got {steps!r}, accepted are whole numbers from 1 to {MOST_STEPS}")
    if len(coefficients) != 3:
        raise ValueError(f"ns_coefficients: expected three numbers a, b, c, got {coefficients!r}")
    if not eps > 0.0:
        raise ValueError(f"eps: got {eps}, accepted are numbers > 0")
