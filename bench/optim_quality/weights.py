"""Weights over many small steps: what a codec realises of a decay and of a drift."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_quality.sizes import Sizes
from narrowgauge.bench.optim_quality.table import Figures
from narrowgauge.numerics.optimizers.dynamics import decay
from narrowgauge.numerics.optimizers.protocol import WeightCodec

Array = NDArray[np.float64]
DRIFTS = (1e-5, 3e-6, 1e-6)
NOISE = 0.8
"""Standard deviation of a step in units of its mean."""


def decay_realised(codec: WeightCodec, sizes: Sizes) -> Figures:
    """For each lr · wd: the share of the decay that happens to weights from 1 to 2 (see
    `numerics.optimizers.dynamics.decay`), in the eighth of the binade where it is worst as well, and the
    share for weights that start at 1."""
    measured: dict[str, float] = {}
    for _ in decay(codec, sizes.decay_rates, sizes.decay_steps, sizes.weights, np.inf, 0, measured):
        pass
    found = {}
    for rate in sizes.decay_rates:
        found[f"share, {rate:g}"] = measured[f"decay realised, lr·wd {rate:g}"]
        found[f"worst, {rate:g}"] = measured[f"decay realised where worst, lr·wd {rate:g}"]
        end, _ = _walk(codec, sizes, partial(np.multiply, -rate))
        found[f"from 1, {rate:g}"] = float(np.log(end) / (sizes.decay_steps * np.log1p(-rate)))
    return found


def drift_realised(codec: WeightCodec, sizes: Sizes) -> Figures:
    """Weights that start at 1 and take noisy steps of the given mean, as the gains of norms do: the drift that is there
    in the end over the one that was asked for."""
    found = {}
    for step in DRIFTS:
        end, asked = _walk(codec, sizes, partial(_noisy, step, np.random.default_rng(29)))
        found[f"{step:g}"] = (end - 1.0) / asked
    return found


def _noisy(step: float, rng: np.random.Generator, w: Array) -> Array:
    return step * (1.0 + NOISE * rng.standard_normal(w.size))


def _walk(codec: WeightCodec, sizes: Sizes, change: Callable[[Array], Array]) -> tuple[float, float]:
    """(mean weight in the end, sum of the mean changes) of weights that start at 1 and are stored after each step."""
    w, asked = np.ones(sizes.weights), 0.0
    for number in range(sizes.decay_steps):
        step = change(w)
        asked += float(np.mean(step))
        state = codec.store_weight((w + step).astype(np.float32), number)
        w = np.asarray(codec.load_weight(state), np.float64)
    return float(np.mean(w)), asked
