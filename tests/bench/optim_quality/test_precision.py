"""One write: an exact codec has no error, and published errors come out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from narrowgauge.bench.optim_peers import LOG8_TO_NEAREST, STATE_PEERS
from narrowgauge.bench.optim_quality import expected, precision
from narrowgauge.bench.optim_quality.sizes import Sizes


def test_an_exact_codec_has_no_error(exact: Any, sizes: Sizes) -> None:
    for experiment in (
        precision.update_error, precision.moment_error, precision.zero_share, precision.small_gradients
    ):  # fmt: skip
        assert set(experiment(exact, sizes).values()) == {0.0}


def test_moments_have_the_spread_of_stationary_averages() -> None:
    m, v = precision.moments_of("iid", (0.9, 0.95), 1 << 13)
    assert np.var(m) == pytest.approx(1e-6 * 0.1 / 1.9, rel=0.05)
    assert np.mean(v) == pytest.approx(1e-6, rel=0.02)
    assert np.var(v) == pytest.approx(1e-12 * 2 * 0.05 / 1.95, rel=0.1)


def test_a_large_m_comes_with_a_large_v_as_in_training() -> None:
    m, v = precision.moments_of("iid", (0.9, 0.95), 1 << 13)
    assert np.corrcoef(np.square(m), v)[0, 1] > 0.2
    assert np.max(np.abs(m) / np.sqrt(v)) < 1.165  # Cauchy-Schwarz


@pytest.mark.parametrize(
    ("codec", "column"),
    [
        (STATE_PEERS["COAT, released kernel"], "iid, 0.95"),
        (STATE_PEERS["COAT, released kernel"], "lognormal 1, 0.95"),
        (STATE_PEERS["bitsandbytes 8-bit"], "rank-1, 0.95"),
        (LOG8_TO_NEAREST, "lognormal 2, 0.95"),
        (LOG8_TO_NEAREST, "iid, 0.999"),
    ],
)
def test_update_errors_are_those_published(codec: Any, column: str, sizes: Sizes) -> None:
    found = precision.update_error(codec, sizes)
    assert found[column] == pytest.approx(expected.UPDATE_ERROR[codec.name][column], rel=0.15)


def test_v_that_vanishes_makes_the_update_infinite(sizes: Sizes) -> None:
    codec = STATE_PEERS["torchao FP8"]
    assert precision.zero_share(codec, sizes)["σ = 2"] == pytest.approx(34.0, rel=0.15)
    assert not np.isfinite(precision.update_error(codec, sizes)["lognormal 2, 0.95"])


def test_float16_scales_underflow(sizes: Sizes) -> None:
    found = precision.small_gradients(STATE_PEERS["FlashOptim"], sizes)
    for column, value in expected.SMALL_GRADIENTS["FlashOptim"].items():
        assert found[column] == pytest.approx(value, rel=0.25)
