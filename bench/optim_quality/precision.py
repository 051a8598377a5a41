"""One write of moments as training makes them: the error of the update, of each moment, v that vanishes, and the
effect of the gradient's size.

Moments are averages of one run of noise, z ~ N(0, 1), scaled by each element's σ: m = σ · m₁, v = σ² · v₁. So m and v
have in common what they have in training, which codecs that store m / sqrt(v) live by.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_quality.sizes import Sizes
from narrowgauge.bench.optim_quality.table import Figures
from narrowgauge.numerics import max_relative_error, nmse, relative_rms
from narrowgauge.numerics.optimizers.contract import Subject
from narrowgauge.numerics.optimizers.data import DATA_SETS, gradient_scales
from narrowgauge.numerics.optimizers.protocol import StateCodec

Array = NDArray[np.float64]
BETAS = ((0.9, 0.95), (0.9, 0.999))
SIZE = 1e-3
"""Root mean square of a gradient with σ = 1."""
GRADIENTS = (1e-4, 1e-5, 1e-6, 1e-7, 3e-8, 1e-8)
ZERO_SIGMAS = (1.0, 1.5, 2.0)
TIME_CONSTANTS = 5
"""Steps of the averages in units of 1 / (1 - β₂); v starts at its mean."""


def subject(codec: StateCodec, betas: tuple[float, float] = BETAS[0]) -> Subject:
    """The codec as the checks of `numerics` take it."""
    stochastic = bool(getattr(codec, "stochastic", False))
    group = int(getattr(codec, "group", 1))
    return Subject(codec, group, stochastic, betas, np.random.default_rng(0))


@lru_cache(maxsize=8)
def _averages(betas: tuple[float, float], count: int) -> tuple[Array, Array]:
    """(m, v) of N(0, 1) gradients."""
    rng = np.random.default_rng(11)
    beta1, beta2 = betas
    m, v = np.zeros(count), np.ones(count)
    for _ in range(round(TIME_CONSTANTS / (1.0 - beta2))):
        g = rng.standard_normal(count)
        m += (1.0 - beta1) * (g - m)
        v += (1.0 - beta2) * (np.square(g) - v)
    return m, v


def moments_of(name: str, betas: tuple[float, float], count: int, size: float = SIZE) -> tuple[Array, Array]:
    """(m, v) of a data set, as float32 holds them; see `numerics.optimizers.data` for the names."""
    m, v = _averages(betas, count)
    scales = size * gradient_scales(name, count, np.random.default_rng(5))
    kept = (scales * m).astype(np.float32), (np.square(scales) * v).astype(np.float32)
    return kept[0].astype(np.float64), kept[1].astype(np.float64)


def update_error(codec: StateCodec, sizes: Sizes) -> Figures:
    """NMSE of m / sqrt(v), for each data set and each pair of betas. Infinite or NaN where a v reads back as 0."""
    found = {}
    for betas in BETAS:
        for name in DATA_SETS:
            m, v = moments_of(name, betas, sizes.elements)
            got_m, got_v = subject(codec).through(m, v)
            with np.errstate(divide="ignore", invalid="ignore"):
                found[f"{name}, {betas[1]:g}"] = nmse(got_m / np.sqrt(got_v), m / np.sqrt(v))
    return found


def moment_error(codec: StateCodec, sizes: Sizes) -> Figures:
    """Errors of m and of v, equal scales, betas (0.9, 0.95)."""
    m, v = moments_of("iid", BETAS[0], sizes.elements)
    got_m, got_v = subject(codec).through(m, v)
    return {
        "NMSE of m": nmse(got_m, m),
        "rel. rms of v": relative_rms(got_v, v),
        "max rel. of v": max_relative_error(got_v, v),
    }


def zero_share(codec: StateCodec, sizes: Sizes) -> Figures:
    """Percent of the positive v that read back as 0, element scales lognormal."""
    found = {}
    for sigma in ZERO_SIGMAS:
        m, v = moments_of(f"lognormal {sigma:g}", BETAS[0], sizes.elements)
        found[f"σ = {sigma:g}"] = 100.0 * float(np.mean(subject(codec).through(m, v)[1] == 0.0))
    return found


def small_gradients(codec: StateCodec, sizes: Sizes) -> Figures:
    """NMSE of m and relative rms error of v for gradients of the given root mean square, equal scales."""
    first, second = {}, {}
    for size in GRADIENTS:
        m, v = moments_of("iid", BETAS[0], sizes.elements, size)
        got_m, got_v = subject(codec).through(m, v)
        first[f"m, {size:g}"], second[f"v, {size:g}"] = nmse(got_m, m), relative_rms(got_v, v)
    return first | second
