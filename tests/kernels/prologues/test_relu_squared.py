from __future__ import annotations

import numpy as np

from narrowgauge.kernels.prologues.relu_squared import RELU_SQUARED


def test_negative_values_are_zero_and_nan_stays() -> None:
    y = RELU_SQUARED.define(np.float32([[-2.0, -0.0, 0.0, 1.5, np.nan]]), None, None, 0.0)
    assert y[0, :4].tolist() == [0.0, 0.0, 0.0, 2.25]
    assert np.isnan(y[0, 4])
