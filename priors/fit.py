"""Which generalized Gaussian a tensor, or a model's pooled weights, follow.

Moment ratio (Sharifi & Leon-Garcia 1995, used by BackSlash, arXiv 2504.16968): with N values x,

    r = N Σx² / (Σ|x|)²  =  ρ(ν) = Γ(1/ν) Γ(3/ν) / Γ(2/ν)²,     α = sqrt(Σx²/N) · sqrt(Γ(1/ν)/Γ(3/ν))

Maximum likelihood: ν solves 1 + ψ(1/ν)/ν + ln(ν S/N)/ν - S'/S = 0 with S = Σ|x|^ν, S' = Σ|x|^ν ln|x|, and
α = (ν S/N)^(1/ν).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import digamma
from torch import Tensor, nn

from narrowgauge.formats.rounding import choice
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.pooled import Pooled, pool

SHAPE_MIN, SHAPE_MAX = 0.02, 100.0
"""The shapes that a fit can return: ρ(0.02) exceeds the ratio of any 10^11 values, ρ(100) is nearly 4/3."""


@cache
def table_shapes() -> NDArray[np.float64]:
    """The shapes of the published table: 0.10, 0.11 … 2.99 (290 of them), read-only."""
    shapes = np.arange(10, 300) / 100.0
    shapes.flags.writeable = False
    return shapes


@cache
def _table_ratios() -> NDArray[np.float64]:
    return np.array([moment_ratio(shape) for shape in table_shapes()])


class FitMethod(StrEnum):
    """How the shape is estimated."""

    RATIO = "ratio"
    MLE = "mle"


Sample: TypeAlias = Tensor | NDArray[Any] | nn.Module


def moment_ratio(shape: float) -> float:
    """ρ(ν) = E x² / (E|x|)² of a generalized Gaussian: falls from infinity to 4/3; 2 at ν = 1, π/2 at 2."""
    prior = GeneralizedGaussian(shape, 1.0)  # refuses what is not a shape
    return math.exp(_log_moment_ratio(prior.shape))


def _log_moment_ratio(shape: float) -> float:
    a = 1.0 / shape
    return math.lgamma(a) + math.lgamma(3.0 * a) - 2.0 * math.lgamma(2.0 * a)


def shape_from_ratio(ratio: float, *, table: bool = False) -> float:
    """The ν with ρ(ν) = ratio, to double precision; SHAPE_MIN or SHAPE_MAX for a ratio beyond their ρ.

    table: the published inversion instead: of ν = 0.10, 0.11 … 2.99 (290 entries; 3.00 is absent) the first
    whose ρ is nearest to `ratio`, without interpolation, so that ratios above 216.8 give 0.10 and below
    1.4617 give 2.99. (The published ρ are float32 and within 3.1e-6 of these.)

    ValueError for a ratio below 1, which no values have.
    """
    if not (ratio >= 1.0 and math.isfinite(ratio)):
        raise ValueError(f"ratio: got {ratio}, accepted: N Σx² / (Σ|x|)², which is >= 1")
    if table:
        return float(table_shapes()[np.argmin(np.abs(_table_ratios() - ratio))])
    target = math.log(ratio)
    if target <= _log_moment_ratio(SHAPE_MAX):
        return SHAPE_MAX
    if target >= _log_moment_ratio(SHAPE_MIN):
        return SHAPE_MIN
    log_shape = brentq(
        lambda t: _log_moment_ratio(math.exp(t)) - target,
        math.log(SHAPE_MIN),
        math.log(SHAPE_MAX),
        xtol=1e-14,
    )
    return math.exp(log_shape)


def fit(
    x: Sample, method: FitMethod | str = "ratio", *, table: bool = False, matrices_only: bool = False
) -> GeneralizedGaussian:
    """The generalized Gaussian about zero that fits `x`.

    x: a tensor or array of real numbers (any shape, dtype and device), or a module, whose parameters are
        pooled into one sample, embeddings, biases and norm gains included, as published; tied ones count
        once. Gains near 1 lower that estimate a lot: a true 2.0 can read as 1.5.
    matrices_only: of a module, pool only the parameters of two or more dimensions.
    method: "ratio", or "mle", which has less variance for shapes far from 2, reads the data about ten times
        and holds a float64 logarithm of each value.
    table: with "ratio", invert by the published table (see `shape_from_ratio`).

    The shape is clamped to [SHAPE_MIN, SHAPE_MAX]: constant magnitudes give SHAPE_MAX. Zeros are values like
    others; under "mle" exact zeros make vanishing shapes infinitely likely, and the local maximum uphill of
    the ratio's estimate is taken, or SHAPE_MIN where there is none.

    ValueError for an empty sample, zeros only (no scale fits them), NaN and infinities; TypeError for what
    are not real numbers. Both name the parameter of a module.
    """
    chosen = choice(FitMethod, method, "method")
    if table and chosen is not FitMethod.RATIO:
        raise ValueError(f"table: got True with method {method!r}, accepted: only with method 'ratio'")
    values = pool(_named_pieces(x, matrices_only))
    if values.count == 0:
        raise ValueError(f"x: got no values in {type(x).__name__}, accepted: at least one that is not zero")
    if values.amax == 0.0:
        raise ValueError(f"x: got {values.count} zeros, accepted: at least one value that is not zero")
    mean, mean_square = values.moments()
    # Rounding may put the ratio of constant magnitudes a hair below its minimum.
    shape = shape_from_ratio(max(1.0, mean_square / mean**2), table=table)
    if chosen is FitMethod.MLE:
        return _maximum_likelihood(values, shape)
    return GeneralizedGaussian.from_std(shape, values.amax * math.sqrt(mean_square))


def _named_pieces(x: Sample, matrices_only: bool) -> list[tuple[str, Tensor]]:
    if isinstance(x, nn.Module):
        return [(f"x: parameter {name!r}", p) for name, p in x.named_parameters() if p.ndim >= 2 or not matrices_only]
    if matrices_only:
        raise ValueError(f"matrices_only: got True with x a {type(x).__name__}, accepted: only with a module")
    if isinstance(x, Tensor):
        return [("x", x)]
    array = np.asarray(x)
    if array.dtype.kind not in "iufV":  # "V": the narrow floats that extend numpy
        raise TypeError(f"x: got dtype {array.dtype}, accepted: real numbers")
    return [("x", torch.from_numpy(array.astype(np.float64)))]


def _maximum_likelihood(values: Pooled, start: float) -> GeneralizedGaussian:
    """The local maximum of the profile likelihood that lies uphill of the shape `start`."""
    logs = [y[y > 0.0].log() for y in values.magnitudes()]

    def sums(shape: float) -> tuple[float, float]:
        pairs = [(float(p.sum()), float((p * t).sum())) for t in logs for p in [(shape * t).exp()]]
        return math.fsum(s for s, _ in pairs), math.fsum(s for _, s in pairs)

    def score(shape: float) -> float:
        """ν/N times the derivative of the profile log-likelihood."""
        s, derivative = sums(shape)
        inner = float(digamma(1.0 / shape)) + math.log(shape * s / values.count)
        return 1.0 + inner / shape - derivative / s

    shape = _descending_root(score, start)
    s, _ = sums(shape)
    scale = values.amax * (shape * s / values.count) ** (1.0 / shape)
    if scale == 0.0:
        raise ValueError(
            f"x: got {values.count} values of which {sum(t.numel() for t in logs)} are not zero, too few for "
            "method 'mle'; accepted: method 'ratio'"
        )
    return GeneralizedGaussian(shape, scale)


def _descending_root(score: Callable[[float], float], start: float) -> float:
    """Where `score` falls through zero next to `start` on its uphill side; a limit if it does so nowhere."""
    uphill = score(start) > 0.0
    here, limit, factor = (start, SHAPE_MAX, 1.25) if uphill else (start, SHAPE_MIN, 0.8)
    while here != limit:
        there = min(max(here * factor, SHAPE_MIN), SHAPE_MAX)
        if (score(there) > 0.0) != uphill:
            return float(brentq(score, min(here, there), max(here, there), xtol=1e-10, rtol=1e-12))
        here = there
    return limit
