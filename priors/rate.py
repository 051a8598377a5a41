"""Bits per parameter of a model whose weights are quantised with a fixed step and entropy coded.

Weights become q = round(θ/Δ) (ties to even); distinct values of q are ranked by frequency, and the rank is coded
with an exponential Golomb code of order k, whose codeword of i ≥ 0 has

    2 ⌊log2(i + 2^k)⌋ - k + 1        bits

The mean length is bits per parameter; the table of values is not counted. Source: BackSlash (arXiv 2504.16968),
algorithm 2 and table 2, with Δ = 2^-8 and k = 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from narrowgauge.priors.coding.exp_golomb import exp_golomb_lengths
from narrowgauge.priors.fit import shape_from_ratio
from narrowgauge.priors.generalized_gaussian import FloatArray, GeneralizedGaussian
from narrowgauge.priors.penalty import sums

STEP = 2.0**-8
ORDERS = (0, 1, 2, 3, 4, 5)
_CHUNK = 1 << 22
_DENSE = 1 << 23
"""Quanta on each side up to which values are counted in an array."""
_CELLS = 1 << 16
_GROUPS = 1 << 12


def exp_golomb_bits(weights: Tensor, order: int = 0) -> float:
    """Mean codeword length of symbols with these counts (or probabilities), the most frequent with the shortest."""
    ranked = weights.double().sort(descending=True).values
    lengths = torch.from_numpy(exp_golomb_lengths(np.arange(len(ranked)), order)).to(ranked.device)
    return float((ranked * lengths).sum() / ranked.sum())


def entropy_bits(weights: Tensor) -> float:
    """Entropy of symbols with these counts (or probabilities), in bits."""
    p = weights.double()
    p = p[p > 0] / p.sum()
    return float(-(p * p.log2()).sum())


def quantised_counts(tensors: Iterable[Tensor], step: float = STEP) -> Tensor:
    """How often each value of round(x/step) that occurs does, int64, in no order a caller may rely on.

    ValueError for a step that is not positive, NaN and infinities.
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step: got {step}, accepted: finite numbers > 0")
    pieces = [chunk for t in tensors for chunk in t.detach().reshape(-1).split(_CHUNK) if chunk.numel()]
    largest = max((float(p.abs().amax()) for p in pieces), default=0.0)
    if not math.isfinite(largest) or any(bool(p.isnan().any()) for p in pieces):
        raise ValueError("tensors: got NaN or infinite values, accepted: finite")
    quanta = ((p.double() / step).round() for p in pieces)
    reach = round(largest / step)
    if reach <= _DENSE:
        total = torch.zeros(2 * reach + 1, dtype=torch.int64)
        for q in quanta:
            total += torch.bincount((q + reach).long(), minlength=2 * reach + 1).cpu()
        return total[total > 0]
    return torch.cat([q.cpu() for q in quanta]).unique(return_counts=True)[1]


def quantised_masses(prior: GeneralizedGaussian, step: float = STEP) -> tuple[FloatArray, FloatArray]:
    """Probabilities of round(x/step) in groups of neighbours, and how many values each group has, both float64.

    The first group is 0 alone; the others are positive, and their negatives have the same probabilities. Groups are
    single values up to 2^16, and longer beyond, as long as more than 10^-12 is left; the last has all that is left.
    """
    reach = float(prior.quantile(1.0 - 0.5e-12)) / step
    cells = np.arange(min(int(reach) + 1, _CELLS) + 1) + 0.5
    if reach > cells[-1]:
        cells = np.append(cells, np.geomspace(cells[-1], reach, _GROUPS)[1:])
    inverse = 1.0 / prior.shape
    with np.errstate(over="ignore"):
        power = (cells * step / prior.scale) ** prior.shape
    beyond = special.gammaincc(inverse, power)
    # Lower and upper tails are each accurate where they are small.
    inside = special.gammainc(inverse, power)
    half = 0.5 * np.maximum(np.where(inside[1:] < 0.5, np.diff(inside), -np.diff(beyond)), 0.0)
    half[-1] += 0.5 * beyond[-1]
    return np.append(inside[:1], half), np.append(1.0, np.diff(cells))


def prior_bits(prior: GeneralizedGaussian, step: float = STEP) -> float:
    """Entropy in bits of a value of `prior` quantised with `step`: what an ideal coder needs. Within a group of
    `quantised_masses` values count as equally likely."""
    masses, sizes = quantised_masses(prior, step)
    terms = special.xlogy(masses, sizes) - special.xlogy(masses, masses)
    return float(terms[0] + 2.0 * terms[1:].sum()) / math.log(2.0)


@dataclass(frozen=True)
class Rate:
    """What a model costs at a quantisation step, in bits per parameter.

    count: parameters. distinct: values of q that occur. zeros: share of parameters that become 0. fixed: a code of
    fixed length for the values that occur. entropy: of the counts. exp_golomb: order → mean codeword length. prior: the
    generalized Gaussian fitted by the moment ratio, None where all parameters are 0; prior_bits: its entropy.
    """

    count: int
    step: float
    distinct: int
    zeros: float
    fixed: int
    entropy: float
    exp_golomb: dict[int, float]
    prior: GeneralizedGaussian | None
    prior_bits: float

    @property
    def best_order(self) -> int:
        """The order with the shortest mean codeword."""
        return min(self.exp_golomb, key=lambda order: self.exp_golomb[order])


def measure_rate(params: Iterable[Tensor], step: float = STEP, orders: Sequence[int] = ORDERS) -> Rate:
    """The rate of these parameters as they are. ValueError for none, NaN and infinities."""
    tensors = [p.detach() for p in params if p.numel()]
    if not tensors:
        raise ValueError("params: got no values, accepted: at least one")
    counts = quantised_counts(tensors, step)
    count = sum(t.numel() for t in tensors)
    zeros = sum(int((t.double() / step).round().eq(0).sum()) for p in tensors for t in p.reshape(-1).split(_CHUNK))
    prior = pooled_prior(tensors)
    return Rate(
        count=count,
        step=step,
        distinct=len(counts),
        zeros=zeros / count,
        fixed=math.ceil(math.log2(len(counts))),
        entropy=entropy_bits(counts),
        exp_golomb={order: exp_golomb_bits(counts, order) for order in orders},
        prior=prior,
        prior_bits=0.0 if prior is None else prior_bits(prior, step),
    )


def pooled_prior(params: Sequence[Tensor], *, table: bool = False) -> GeneralizedGaussian | None:
    """The fit by moment ratio of all tensors together, in one pass; None where all are 0."""
    first, second = (float(part.sum()) for part in sums(params))
    if first == 0.0:
        return None
    count = sum(p.numel() for p in params)
    shape = shape_from_ratio(max(1.0, count * second / first**2), table=table)
    return GeneralizedGaussian.from_std(shape, math.sqrt(second / count))
