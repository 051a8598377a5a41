"""Many writes of averages: whether v forgets, whether it stays where it should, and whether rounding has a bias."""

from __future__ import annotations

import numpy as np

from narrowgauge.bench.optim_quality.precision import subject
from narrowgauge.bench.optim_quality.sizes import Sizes
from narrowgauge.bench.optim_quality.table import Figures
from narrowgauge.numerics.optimizers.data import gradient_scales
from narrowgauge.numerics.optimizers.dynamics import tracking
from narrowgauge.numerics.optimizers.protocol import StateCodec


def forgetting(codec: StateCodec, sizes: Sizes) -> Figures:
    """Σ stored v / Σ exact v over the elements whose gradient's variance dropped 100 times, `tracking_steps` later (see
    `numerics.optimizers.dynamics.tracking`)."""
    tracked = subject(codec)
    tracking(tracked, sizes.tracking_steps, sizes.tracked)
    return {
        f"β₂ = {beta2:g}": tracked.measurements[f"tracking ratio, beta2 {beta2:g}"] for beta2 in sizes.tracking_steps
    }


STATISTICS = ("mean", "p1", "p99")


def stationary(codec: StateCodec, sizes: Sizes) -> Figures:
    """Stored v / exact v where nothing changes: from v = 0, gradients N(0, 1), equal scales; mean and percentiles 1 and
    99."""
    found: dict[str, float] = {}
    through = subject(codec).through
    m = np.zeros(sizes.stationary)
    for beta2, steps in sizes.stationary_steps.items():
        rng = np.random.default_rng(3)
        stored = exact = np.zeros(sizes.stationary)
        for step in range(steps):
            news = (1.0 - beta2) * np.square(rng.standard_normal(sizes.stationary))
            exact = beta2 * exact + news
            stored = through(m, beta2 * stored + news, step)[1]
        ratio = stored / exact
        for statistic, value in zip(STATISTICS, (np.mean(ratio), *np.percentile(ratio, (1, 99))), strict=True):
            found[f"{statistic}, {beta2:g}"] = float(value)
    return found


SLOPE_BETAS = (0.9, 0.99)
"""Of m and of v."""
SETTLED = 0.1
"""Share of the writes that is left out."""


def slope(codec: StateCodec, sizes: Sizes) -> Figures:
    """Mean of stored / exact over elements and writes of averages that stand still, x ← β x̂ + (1 - β) x₀ with β = 0.9
    for m and 0.99 for v, element scales lognormal (σ = 1). A bias of δ per write shows as δ / (1 - β)."""
    rng = np.random.default_rng(17)
    scales = gradient_scales("lognormal 1", sizes.written, rng)
    target_m = scales * rng.choice((-1.0, 1.0), sizes.written) * rng.uniform(0.5, 1.5, sizes.written)
    target_v = np.square(scales) * rng.uniform(0.5, 1.5, sizes.written)
    through = subject(codec).through
    m, v = target_m, target_v
    total_m = total_v = 0.0
    first = round(SETTLED * sizes.writes)
    beta1, beta2 = SLOPE_BETAS
    for write in range(sizes.writes):
        m, v = through(m + (1.0 - beta1) * (target_m - m), v + (1.0 - beta2) * (target_v - v), write)
        if write >= first:
            total_m += float(np.mean(m / target_m))
            total_v += float(np.mean(v / target_v))
    return {"m": total_m / (sizes.writes - first), "v": total_v / (sizes.writes - first)}
