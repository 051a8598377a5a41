"""Decay and drift of weights: exact storage realises them, bfloat16 to nearest nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from narrowgauge.bench.optim_peers import WEIGHT_CONTROL, WEIGHT_PEERS
from narrowgauge.bench.optim_quality import weights
from narrowgauge.bench.optim_quality.sizes import QUICK

SIZES = replace(QUICK, decay_steps=300, decay_rates=(1e-5,))
FLASH = "bfloat16 + int8, to nearest (FlashOptim)"


def test_exact_storage_realises_everything(exact: Any) -> None:
    assert weights.decay_realised(exact, SIZES)["worst, 1e-05"] == pytest.approx(1.0, abs=0.02)
    assert weights.drift_realised(exact, SIZES)["1e-06"] == pytest.approx(1.0, abs=0.1)


def test_bfloat16_to_nearest_realises_nothing() -> None:
    codec = WEIGHT_PEERS["bfloat16 weight, to nearest"]
    assert weights.decay_realised(codec, SIZES)["from 1, 1e-05"] == 0.0
    assert set(weights.drift_realised(codec, SIZES).values()) == {0.0}


def test_a_rest_to_nearest_stalls_and_a_stochastic_one_does_not() -> None:
    stalled, moving = (weights.decay_realised(WEIGHT_PEERS[name], SIZES) for name in (FLASH, WEIGHT_CONTROL))
    assert stalled["from 1, 1e-05"] == 0.0
    assert moving["from 1, 1e-05"] == pytest.approx(1.0, abs=0.05)


def test_the_drift_of_a_rest_to_nearest_is_the_published_one() -> None:
    found = weights.drift_realised(WEIGHT_PEERS[FLASH], SIZES)
    assert found["1e-05"] == pytest.approx(0.785, abs=0.05)
    assert found["1e-06"] == 0.0
