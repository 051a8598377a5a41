"""Many writes: exact averages stay, bfloat16 to nearest does not forget, SOLO's logarithm has a bias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from narrowgauge.bench.optim_peers import STATE_PEERS
from narrowgauge.bench.optim_quality import dynamics
from narrowgauge.bench.optim_quality.sizes import QUICK

SIZES = replace(QUICK, tracked=256, tracking_steps={0.99: 600}, stationary_steps={0.95: 200}, writes=300)


def test_an_exact_codec_forgets_stays_and_has_no_bias(exact: Any) -> None:
    assert dynamics.forgetting(exact, SIZES)["β₂ = 0.99"] == pytest.approx(1.0, abs=1e-4)
    assert dynamics.stationary(exact, SIZES)["p99, 0.95"] == pytest.approx(1.0, abs=1e-5)
    assert dynamics.slope(exact, SIZES) == pytest.approx({"m": 1.0, "v": 1.0}, abs=1e-5)


def test_nearest_rounding_to_e4m3_does_not_forget() -> None:
    assert dynamics.forgetting(STATE_PEERS["torchao FP8"], SIZES)["β₂ = 0.99"] > 5.0


def test_stationary_figures_of_torchao_are_the_published_ones() -> None:
    found = dynamics.stationary(STATE_PEERS["torchao FP8"], SIZES)
    assert found["p1, 0.95"] == pytest.approx(0.82, abs=0.06)
    assert found["p99, 0.95"] == pytest.approx(1.23, abs=0.06)


def test_stochastic_bfloat16_has_no_bias_and_a_stochastic_logarithm_has() -> None:
    assert dynamics.slope(STATE_PEERS["bfloat16, stochastic"], SIZES)["v"] == pytest.approx(1.0, abs=2e-3)
    assert dynamics.slope(STATE_PEERS["SOLO 4/2"], SIZES)["v"] > 1.5
