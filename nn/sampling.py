"""Leverage score sampling: backward products over a share of the rows of dY, without bias (arXiv 2306.11987, 4.2).

    dW = Σ_t dY_tᵀ X_t  ≈  Σ_t (m_t / p_t) dY_tᵀ X_t        m_t ~ Bernoulli(p_t)
    p_t = min(1, λ c_t),   Σ p_t = share · n,   c_t = |dY_t| |X_t| for dW,   |dY_t| for dX

These p have the least variance of all with so many rows on average. Under a slot with `planes` each token has two rows,
16 · hi and lo, and n counts both: with half of them kept the two INT4 GEMMs cost what one does. Where dY has few large
rows, hi is zero nearly everywhere, and lo is dropped where it matters least.

Whether a row is kept follows from (seed, stream) and its p; p comes from norms, whose last bits differ by device. A row
that is not finite is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats.operand import OperandScheme, parse_operand
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.formats.stages import Planes
from narrowgauge.formats.stages.planes import HIGH
from narrowgauge.kernels._cast_torch import rounding_bits
from narrowgauge.nn.stages.planes import plane_step, split

_DRAWS = 2**RANDOM_BITS


def keep_probabilities(scores: Tensor, share: float) -> Tensor:
    """p of every row, [n], from non-negative scores [n]: min(1, λ · score), of sum share · n, or 1 for every row that
    is not zero where these are fewer. Multiples of 2^-24, rounded up."""
    finite = torch.isfinite(scores)
    known = torch.where(finite, scores, 0.0).double()
    count = known.numel()
    ordered, places = torch.sort(known, descending=True, stable=True)
    rest = ordered.flip(0).cumsum(0).flip(0)
    left = share * count - torch.arange(count, device=scores.device, dtype=torch.float64)
    # λ = left / rest from the first place where λ · score is at most 1; the rows before it are always kept.
    certain = ((ordered * left > rest) & (left > 0.0)).long().cumprod(0).bool()
    start = certain.sum().clamp(max=max(count - 1, 0))
    factor = left[start].clamp(min=0.0) / rest[start].clamp(min=torch.finfo(torch.float64).tiny)
    chance = torch.empty_like(known).index_copy_(0, places, torch.where(certain, 1.0, ordered * factor))
    chance = torch.where(finite, chance, 1.0)
    return torch.ceil(chance.clamp(max=1.0) * _DRAWS) / _DRAWS


def row_weights(scores: Tensor, share: float, draws: Tensor) -> Tensor:
    """m / p of every row, float32 [n]: 0 for rows that are dropped. draws: random bits of each row, int32 [n]."""
    chance = keep_probabilities(scores, share)
    return torch.where(draws.double() < chance * _DRAWS, 1.0 / chance, 0.0).float()


def sampled_rows(
    values: Tensor, slot: str | None, source: Tensor, share: float, draws: Tensor, others: Tensor | None = None
) -> Tensor:
    """The values [T, N], float32, of an operand that was made from `source`, with rows weighted or dropped.

    slot: the operand's scheme. draws: random bits, int32 [2 T]. others: |X_t| [T], for the gradient of the weight.
    """
    parts = [values]
    if has_planes(slot) and source.numel():
        step = plane_step(source)
        high, low = split(torch.round(parts[0] / step))
        parts = [high * (HIGH * step), low * step]
    scores = torch.cat([torch.linalg.vector_norm(part, dim=1) for part in parts])
    if others is not None:
        scores = scores * others.repeat(len(parts))
    weights = row_weights(scores, share, draws[: scores.numel()]).reshape(len(parts), -1, 1)
    weighted = [torch.where(w > 0.0, part * w, 0.0) for part, w in zip(parts, weights, strict=True)]
    return weighted[0] if len(weighted) == 1 else weighted[0] + weighted[1]


def has_planes(slot: str | None) -> bool:
    """Whether the codes of a slot are split into two planes."""
    spec = None if slot is None else parse_operand(slot)
    return isinstance(spec, OperandScheme) and any(isinstance(stage, Planes) for stage in spec.stages)


def sampling_draws(rows: int, seed: int, offset: int, device: torch.device) -> Tensor:
    """Random bits of both sampled products of a call, int32 [2, 2 · rows]."""
    return rounding_bits((2, 2 * rows), seed, offset, device)
