"""The quadratic: float32 storage changes nothing, and a v that reads back as 0 explodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from narrowgauge.bench.optim_quality import toy
from narrowgauge.bench.optim_quality.sizes import QUICK


def test_exact_storage_ends_at_the_same_loss(exact: Any) -> None:
    assert set(toy.loss_ratio(exact, QUICK).values()) == {1.0}


def test_training_reduces_the_loss() -> None:
    short, long = (toy.final_loss(None, 0.95, 256, steps) for steps in (10, 1500))
    assert long < 0.05 * short


def test_a_vanished_v_explodes(exact: Any) -> None:
    class Vanishes(type(exact)):
        def load(self, state: Any) -> Any:
            return state[0], np.zeros_like(state[1])

    assert toy.loss_ratio(Vanishes(), replace(QUICK, toy_steps=200))["β₂ = 0.999"] > 100.0
