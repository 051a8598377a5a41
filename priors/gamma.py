"""Gamma variates that honour an explicit `torch.Generator` on any device; torch's own sampler takes none."""

from __future__ import annotations

import torch
from torch import Tensor


def standard_gamma(
    concentration: float, count: int, *, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """`count` draws (float64, [count], on `device`) from Gamma(concentration >= 1, rate 1); the law is exact.

    Marsaglia and Tsang's squeeze without the squeeze (ACM TOMS 26, 2000): with d = concentration - 1/3,
    c = 1/sqrt(9d), z ~ N(0, 1) and v = (1 + c·z)³, the candidate d·v is accepted with probability
    exp(z²/2 + d - d·v + d·ln v), at least 0.95. Rejected places are drawn again until none is left.

    generator: on `device`; None is that device's global one. ValueError for a concentration below 1.
    """
    if not concentration >= 1.0:
        raise ValueError(f"concentration: got {concentration}, accepted: numbers >= 1")
    draws, accepted = _candidates(concentration, count, generator, device)
    rejected = (~accepted).nonzero().squeeze(1)
    while rejected.numel():
        again, accepted = _candidates(concentration, rejected.numel(), generator, device)
        draws[rejected] = again
        rejected = rejected[~accepted]
    return draws


def _candidates(
    concentration: float, count: int, generator: torch.Generator | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    d = concentration - 1.0 / 3.0
    normal = torch.randn(count, generator=generator, device=device, dtype=torch.float64)
    uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
    v = (1.0 + normal / (9.0 * d) ** 0.5) ** 3
    # A negative v has a NaN logarithm, and so is rejected by the comparison.
    accepted = uniform.log() < 0.5 * normal.square() + d * (1.0 - v + v.log())
    return d * v, accepted
