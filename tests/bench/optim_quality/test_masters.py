"""This package's weights as codecs: the same as their model, in distribution."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.bench.optim_quality.masters import MASTER_CODECS, OURS, Master
from narrowgauge.kernels.step_rules import MASTERS
from narrowgauge.numerics import check_optimizer
from narrowgauge.numerics.optimizers.protocol import WeightCodec


def test_there_is_one_for_every_master() -> None:
    assert {codec.master for codec in MASTER_CODECS.values()} == set(MASTERS)
    assert all(isinstance(codec, WeightCodec) for codec in MASTER_CODECS.values())


@pytest.mark.parametrize("master", ["sr", "residual"])
def test_stochastic_ones_keep_a_small_step_on_average(master: str) -> None:
    w = np.full(1 << 18, 1 + 1e-5, np.float32)
    codec = Master(master)
    mean = float(np.mean(np.asarray(codec.load_weight(codec.store_weight(w, 7)), np.float64))) - 1.0
    assert mean == pytest.approx(1e-5, rel=0.15)
    assert codec.stochastic


def test_none_is_bfloat16_to_nearest() -> None:
    codec = Master("none")
    w = np.array([1 + 2.0**-9, 1 + 2.0**-7], np.float32)
    assert np.asarray(codec.load_weight(codec.store_weight(w))).tolist() == [1.0, 1 + 2.0**-7]


def test_the_residual_decays() -> None:
    report = check_optimizer(MASTER_CODECS[OURS], elements=1 << 12, decay_steps=200, decay_rates=(1e-5,))
    assert report.ok, report.table()
