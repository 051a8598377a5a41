"""Moments as training makes them: exponential averages of noisy gradients, under several scales of the elements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from narrowgauge.numerics._arrays import FloatArray

DATA_SETS = ("iid", "rank-1", "lognormal 1", "lognormal 2")
WIDTH = 256


def gradient_scales(name: str, count: int, rng: np.random.Generator) -> FloatArray:
    """Standard deviation of each element's gradient, flat.

    iid: 1. rank-1: a matrix of WIDTH columns, rows lognormal with σ = 1 and columns with σ = 0.5. "lognormal s": each
    element lognormal with σ = s.
    """
    if name == "iid":
        return np.ones(count)
    if name == "rank-1":
        rows = np.exp(rng.standard_normal(-(-count // WIDTH)))
        return np.asarray(np.outer(rows, np.exp(0.5 * rng.standard_normal(WIDTH))).reshape(-1)[:count])
    sigma = float(name.removeprefix("lognormal "))
    return np.asarray(np.exp(sigma * rng.standard_normal(count)))


def moments(
    scales: FloatArray, betas: tuple[float, float], rng: np.random.Generator, size: float = 1e-3
) -> tuple[FloatArray, FloatArray]:
    """(m, v) of stationary averages of gradients size · scales · N(0, 1), in float64.

    Drawn directly: m is normal with variance (1-β₁)/(1+β₁), v a sum of as many squares as its average effectively has,
    (1+β₂)/(1-β₂), at most 400. That leaves out what m and v have in common, which no codec of either can see.
    """
    beta1, beta2 = betas
    freedom = min((1.0 + beta2) / (1.0 - beta2), 400.0)
    m = size * scales * np.sqrt((1.0 - beta1) / (1.0 + beta1)) * rng.standard_normal(scales.size)
    v = np.square(size * scales) * rng.gamma(freedom / 2.0, 2.0 / freedom, scales.size)
    return m, v


def updates(
    scales: FloatArray, beta2: float, warm: int, steps: int, drop: float, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """(g², exact v) step by step, float64; after `warm` steps the variance of every second element is `drop` times what
    it was. v starts at its stationary mean."""
    v = np.square(scales)
    for step in range(warm + steps):
        if step == warm:
            scales = scales.copy()
            scales[::2] *= np.sqrt(drop)
        squares = np.square(scales * rng.standard_normal(scales.size))
        v = beta2 * v + (1.0 - beta2) * squares
        yield squares, v
