"""Bounds and scores of random and rounded sums: what a check may call wrong, and with which certainty.

Deterministic bounds hold always and are limits; probabilistic ones assume mean-independent rounding errors (Higham and
Mary, SIAM J. Sci. Comput. 41 (2019) A2815), which biased data break, and are diagnostics.
"""

from __future__ import annotations

import math

import numpy as np

from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.check import gamma

Z_LIMIT = 5.0
"""Standard deviations beyond which a single number is not chance: two-sided probability 6e-7."""
LAMBDA = 6.0
"""λ of the probabilistic bound: it fails with probability 2n · exp(-λ²/2) at most."""


def accumulation_bound(n: int, unit_roundoff: float) -> float:
    """Largest relative error of n successive roundings: γ_n, or (1 + u)^n - 1 where n·u >= 1 and γ_n does not exist.

    Both hold for every order; the second is the smaller one, and infinite beyond float64's range.
    """
    if n * unit_roundoff < 1.0:
        return gamma(n, unit_roundoff)
    exponent = n * math.log1p(unit_roundoff)
    return math.expm1(exponent) if exponent < 700.0 else math.inf


def probabilistic_bound(n: int, unit_roundoff: float, lam: float = LAMBDA) -> float:
    """exp(λ·√n·u + n·u² / (1 - u)) - 1, which n roundings rarely exceed if their errors are mean-independent."""
    exponent = lam * math.sqrt(n) * unit_roundoff + n * unit_roundoff**2 / (1.0 - unit_roundoff)
    return math.expm1(exponent) if exponent < 700.0 else math.inf


def z_limit(count: int) -> float:
    """5 + √(2 ln n): the largest of n standard normal numbers stays below it, but for a chance of 6e-7."""
    return Z_LIMIT + math.sqrt(2.0 * math.log(max(count, 1)))


def z_scores(mean: FloatArray, expected: FloatArray, variance: FloatArray, slack: FloatArray | float) -> FloatArray:
    """Distance of `mean` from `expected` beyond `slack`, in standard deviations of the mean.

    variance: of the mean, known, not estimated. slack: what is allowed without chance, such as a rounding bound.
    Infinite where the variance is 0 and the distance larger than the slack, or is NaN.
    """
    excess = np.maximum(np.abs(mean - expected) - slack, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(excess == 0.0, 0.0, excess / np.sqrt(variance))
    return np.asarray(np.where(np.isnan(scores), np.inf, scores))


def round_significand(x: FloatArray, bits: int) -> FloatArray:
    """`x` to nearest, ties to even, with `bits` significant bits (tf32 and float16 11, bfloat16 8) and no limit of
    range."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))


def truncate_significand(x: FloatArray, bits: int) -> FloatArray:
    """`x` rounded towards zero to `bits` significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.trunc(np.ldexp(mantissa, bits)), exponent - bits))
