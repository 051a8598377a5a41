"""bfloat16 moments: to nearest they stand still, stochastically they move on average."""

from __future__ import annotations

import numpy as np

from narrowgauge.bench.optim_peers.wide import Bf16

NEAREST, STOCHASTIC = Bf16("nearest", stochastic=False), Bf16("stochastic", stochastic=True)


def after(codec: Bf16, steps: int) -> float:
    """Mean of v that decays by 1e-3 a step from 1."""
    v = np.ones(4096, np.float32)
    for step in range(steps):
        v = codec.load(codec.store(v, np.float32(0.999) * v, step))[1]
    return float(v.mean())


def test_nearest_rounding_undoes_a_decay_of_one_in_a_thousand() -> None:
    assert after(NEAREST, 200) == 1.0


def test_stochastic_rounding_decays_on_average() -> None:
    assert abs(after(STOCHASTIC, 200) / 0.999**200 - 1.0) < 0.01


def test_m_and_v_have_draws_of_their_own() -> None:
    x = np.full(1000, 1 + 2**-9, np.float32)
    m, v = STOCHASTIC.load(STOCHASTIC.store(x, x, 5))
    assert not np.array_equal(m, v)
