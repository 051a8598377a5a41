"""How well a distribution about zero describes a sample: Kolmogorov-Smirnov, Kullback-Leibler, likelihood.

With F the model's distribution function, F_n the sample's, and p_i, q_i the shares of sample and model in a bin:

    D = sup |F_n - F|             its p-value by Kolmogorov's law at (√n + 0.12 + 0.11/√n) D (Stephens 1970)
    KL = Σ p_i log2(p_i / q_i)    bits per value that a coder which believes the model wastes
    L = mean ln f(x)              AIC = 2 k - 2 n L, k the number of fitted parameters

Bins are those of the fitted generalized Gaussian, the same for all models: 256 that it finds equally probable, the two
outermost cut into 17 each, by halving what is left. Of n values a true model has a KL of about
(bins - 1)/(2 n ln 2), not 0. Where shape and scale were fitted to the same sample, p-values are too large: a small one
rejects the model, a large one proves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from narrowgauge.priors.fit import FitMethod, fit
from narrowgauge.priors.generalized_gaussian import FloatArray, GeneralizedGaussian
from narrowgauge.priors.pooled import Pooled, pool

_INNER, _TAIL = 128, 16
BINS = 2 * (_INNER + _TAIL)
KS_VALUES = 1 << 17
"""Values that the Kolmogorov-Smirnov statistic is made of, at most; of more, every k-th is taken."""


@dataclass(frozen=True)
class Goodness:
    """One model of a sample of `count` values.

    ks, ks_p: D of `ks_count` values, and its p-value. kl: bits. log_likelihood: nats per value. aic: for k = 2
    parameters of a generalized Gaussian, 1 of a Gaussian or Laplace (smaller is better).
    """

    prior: GeneralizedGaussian
    count: int
    ks: float
    ks_p: float
    ks_count: int
    kl: float
    log_likelihood: float
    aic: float


@dataclass(frozen=True)
class Comparison:
    """The same sample under three models, each fitted to it: generalized Gaussian, Gaussian, Laplace."""

    fitted: Goodness
    gaussian: Goodness
    laplace: Goodness

    @property
    def families(self) -> dict[str, Goodness]:
        """Name → model."""
        return {"generalized": self.fitted, "gaussian": self.gaussian, "laplace": self.laplace}

    @property
    def best(self) -> str:
        """The name of the model with the smallest AIC."""
        return min(self.families, key=lambda name: self.families[name].aic)


def ks_p_value(statistic: float, count: int) -> float:
    """P(D >= statistic) for `count` independent values of the model itself."""
    root = math.sqrt(count)
    return float(special.kolmogorov((root + 0.12 + 0.11 / root) * statistic))


def ks_statistic(values: FloatArray, prior: GeneralizedGaussian) -> float:
    """D of a flat sample, both one-sided distances; equal values count as the jump that they are."""
    return _ks(_Steps.of(values), prior)


@dataclass(frozen=True)
class _Steps:
    """F_n: its distinct values in ascending order, and its height before and after each."""

    values: FloatArray
    before: FloatArray
    after: FloatArray

    @classmethod
    def of(cls, values: FloatArray) -> _Steps:
        distinct, counts = np.unique(values, return_counts=True)
        after = np.cumsum(counts)
        return cls(distinct, (after - counts) / len(values), after / len(values))


def _ks(steps: _Steps, prior: GeneralizedGaussian) -> float:
    cdf = prior.cdf(steps.values)
    return float(max(np.max(steps.after - cdf), np.max(cdf - steps.before)))


def compare(
    x: Tensor | NDArray[Any],
    method: FitMethod | str = "ratio",
    *,
    prior: GeneralizedGaussian | None = None,
    ks_values: int = KS_VALUES,
) -> Comparison:
    """How well a generalized Gaussian, a Gaussian and a Laplace distribution about zero describe `x`.

    x: a tensor or array of real numbers, of any shape. method: how the generalized Gaussian is fitted; Gaussian and
    Laplace have the scales of largest likelihood. prior: this one instead of a fit. ks_values: see `KS_VALUES`.

    Errors as in `fit`: no values, zeros only, NaN and infinities. ValueError for ks_values below 1.
    """
    if ks_values < 1:
        raise ValueError(f"ks_values: got {ks_values}, accepted: at least 1")
    fitted = fit(x, method) if prior is None else prior
    tensor = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x, dtype=np.float64))
    values = pool([("x", tensor)])
    mean, mean_square = values.moments()
    models = {
        "fitted": (fitted, 2),
        "gaussian": (GeneralizedGaussian.from_std(2.0, values.amax * math.sqrt(mean_square)), 1),
        "laplace": (GeneralizedGaussian(1.0, values.amax * mean), 1),
    }
    flat = tensor.detach().reshape(-1)
    some = flat[:: -(-flat.numel() // ks_values)].double().cpu().numpy()
    steps = _Steps.of(some)
    outside = np.concatenate([1.0 - np.arange(_INNER) / _INNER, 0.5 ** np.arange(1, _TAIL + 1) / _INNER])
    edges = fitted.quantile(1.0 - 0.5 * outside)
    shares = _shares(values, edges)
    return Comparison(
        **{name: _goodness(values, steps, len(some), edges, shares, *model) for name, model in models.items()}
    )


def _goodness(
    values: Pooled,
    steps: _Steps,
    ks_count: int,
    edges: FloatArray,
    shares: FloatArray,
    prior: GeneralizedGaussian,
    fitted: int,
) -> Goodness:
    statistic = _ks(steps, prior)
    likelihood = _log_likelihood(values, prior)
    return Goodness(
        prior=prior,
        count=values.count,
        ks=statistic,
        ks_p=ks_p_value(statistic, ks_count),
        ks_count=ks_count,
        kl=_divergence(shares, _masses(edges, prior)),
        log_likelihood=likelihood,
        aic=2 * fitted - 2 * values.count * likelihood,
    )


def _log_likelihood(values: Pooled, prior: GeneralizedGaussian) -> float:
    """mean ln f(x) = ln f(0) - mean (|x|/α)^ν; minus infinity where that exceeds float64."""
    factor = values.amax / prior.scale
    total = math.fsum(float((y * factor).pow(prior.shape).sum()) for y in values.magnitudes())
    return float(prior.log_pdf(0.0)) - total / values.count


def _shares(values: Pooled, edges: FloatArray) -> FloatArray:
    """Share of the sample in each of BINS bins, from below; `edges` are the BINS/2 borders >= 0 (the first is 0), and
    bins are closed towards zero: exact zeros lie in the first one above."""
    borders = torch.from_numpy(np.concatenate([-edges[:0:-1], edges]))
    counts = torch.zeros(BINS, dtype=torch.int64)
    for piece in values.pieces:
        for chunk in piece.split(1 << 22):
            index = torch.bucketize(chunk.double().cpu(), borders, right=True)
            counts += torch.bincount(index, minlength=BINS)
    return np.asarray(counts.numpy() / values.count)


def _masses(edges: FloatArray, prior: GeneralizedGaussian) -> FloatArray:
    """Probability of each bin, relative accuracy where it is small: near zero and in the tails."""
    inverse = 1.0 / prior.shape
    with np.errstate(over="ignore", under="ignore"):
        power = (edges / prior.scale) ** prior.shape
    inside = np.append(special.gammainc(inverse, power), 1.0)
    beyond = np.append(special.gammaincc(inverse, power), 0.0)
    half = 0.5 * np.where(inside[1:] < 0.5, np.diff(inside), -np.diff(beyond))
    return np.concatenate([half[::-1], half])


def _divergence(shares: FloatArray, masses: FloatArray) -> float:
    """Σ p log2(p/q); infinite where the model excludes what the sample has."""
    return float(special.rel_entr(shares, masses).sum()) / math.log(2.0)
