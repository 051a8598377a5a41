"""A problem of which everything is known, trained to the end with stored moments.

    loss = mean(h w²) / 2    g = h (w + σ_t z), z ~ N(0, 1)    log h ~ N(0, 1)    w₀ ~ N(0, 1)
    σ_t = 0.3 · 30^(-t / T)    lr_t = 3e-3 · (1 + cos(π t / T)) / 2    T = 6000    eps = 1e-12, no weight decay

Curvature varies from element to element, and with it v, as within the groups of a real tensor. A v that reads back as 0
shows as an explosion, because eps is tiny; a v that does not forget as a loss above that of float32.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from narrowgauge.bench.optim_peers.arrays import Float32Array
from narrowgauge.bench.optim_quality.sizes import Sizes
from narrowgauge.bench.optim_quality.table import Figures
from narrowgauge.numerics.optimizers.protocol import StateCodec

BETA1 = 0.9
BETA2S = (0.95, 0.999)
NOISE, NOISE_DECAY = 0.3, 30.0
LEARNING_RATE = 3e-3
EPS = np.float32(1e-12)


def loss_ratio(codec: StateCodec, sizes: Sizes) -> Figures:
    """Final loss with the codec over that with float32 moments, for each β₂."""
    return {
        f"β₂ = {beta2:g}": final_loss(codec, beta2, sizes.toy, sizes.toy_steps)
        / _exact_loss(beta2, sizes.toy, sizes.toy_steps)
        for beta2 in BETA2S
    }


@lru_cache(maxsize=8)
def _exact_loss(beta2: float, count: int, steps: int) -> float:
    return final_loss(None, beta2, count, steps)


def final_loss(codec: StateCodec | None, beta2: float, count: int, steps: int) -> float:
    """Loss after the last step; moments go through the codec after each (None: float32)."""
    rng = np.random.default_rng(23)
    curvature = np.exp(rng.standard_normal(count, dtype=np.float32))
    w = rng.standard_normal(count, dtype=np.float32)
    m, v = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for t in range(1, steps + 1):
        done = (t - 1) / steps
        noise = np.float32(NOISE * NOISE_DECAY**-done) * rng.standard_normal(count, dtype=np.float32)
        lr = LEARNING_RATE * (1.0 + np.cos(np.pi * done)) / 2.0
        with np.errstate(all="ignore"):
            w, m, v = _step(w, m, v, curvature * (w + noise), beta2, t, lr)
        if codec is not None:
            read = codec.load(codec.store(m, v, t))
            m, v = (np.asarray(part, np.float32) for part in read)
    with np.errstate(all="ignore"):
        return float(np.mean(curvature * np.square(w, dtype=np.float64)) / 2.0)


def _step(
    w: Float32Array, m: Float32Array, v: Float32Array, g: Float32Array, beta2: float, t: int, lr: float
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """One step of Adam in float32."""
    m = np.float32(BETA1) * m + np.float32(1.0 - BETA1) * g
    v = np.float32(beta2) * v + np.float32(1.0 - beta2) * g * g
    rate = np.float32(lr / (1.0 - BETA1**t))
    root: Float32Array = np.sqrt(v)
    return w - rate * m / (root / np.float32(np.sqrt(1.0 - beta2**t)) + EPS), m, v
