"""ECO: quantised weights without master weights, their rounding error given to the momentum (arXiv 2601.22101).

A parameter holds values of a quantised grid. After each update w̃ it is rounded again, w = q(w̃), and the error
e = w̃ - w is injected into the momentum, so that the next steps make up for it:

    m ← m + (1 - 1/a) / lr · e                                       SGD with momentum a
    m ← m + (1 - 1/β₁) / lr · (√v̂ + eps) · (1 - β₁^t) · e            Adam: times its preconditioner; v̂ = v / (1 - β₂^t)

Exact error feedback would need e of two steps; the formula takes them as equal, which saves storing one. 1 / lr grows
without bound where a schedule ends at 0, and what it puts into m would break loose when lr rises again: lr counts as at
least 1 % of the largest lr that the group has seen (`eco_peak_lr` in the group, saved with it). Below that, weights
are simply rounded to nearest in growing part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels.tensor import quantize
from narrowgauge.optim.options import ECO
from narrowgauge.optim.rows import Numbers

LEAST_SHARE = 0.01
"""Of the largest lr, below which lr does not count as smaller."""


def grid_of(master: str) -> str:
    """The scheme of a `master` option, "" where it is not ECO's."""
    return master.removeprefix(ECO) if master.startswith(ECO) else ""


def check_grid(master: str) -> None:
    """ValueError for a scheme that is unknown or rounds stochastically."""
    try:
        scheme = parse(grid_of(master))
    except ValueError as error:
        raise ValueError(f"master: {master!r}: {error}") from None
    if scheme.stochastic:
        raise ValueError(f"master: {master!r} rounds stochastically; ECO takes schemes that round to nearest")


def give_back(
    weight: Tensor, m: Tensor, v: Tensor | None, numbers: Numbers, peak_lr: float, grid: str, dtype: torch.dtype
) -> None:
    """Rounds updated weights (float32, in place) to the grid and then to `dtype`, the parameter's, and adds what that
    costs to m (float32, in place).

    v: the second moment after the update, for Adam's rules. numbers: of this step.
    """
    rounded = quantize(weight, grid).dequantize(dtype).float()
    error = weight - rounded
    weight.copy_(rounded)
    lr = max(float(numbers.lr), LEAST_SHARE * peak_lr)
    if not lr or not numbers.a:
        return
    error.mul_((1.0 - 1.0 / numbers.a) / lr)
    if v is not None:
        error.mul_((v / numbers.c2).sqrt_().add_(numbers.eps)).mul_(numbers.c1)
    m.add_(error)
