"""The pieces of the peers' models against the formats, where there is a format to compare with."""

from __future__ import annotations

import numpy as np

from narrowgauge.bench.optim_peers import arrays
from narrowgauge.formats import get


def test_e4m3_codes_are_those_of_the_format() -> None:
    values = np.abs(arrays.values_of("e4m3fn")[:127].astype(np.float64))
    middles = (values[1:] + values[:-1]) / 2
    near = np.concatenate([values, middles, middles * (1 + 1e-6), middles * (1 - 1e-6), [449, 464, 1e9, np.inf]])
    x = np.concatenate([near, -near]).astype(np.float32)
    np.testing.assert_array_equal(arrays.e4m3_codes(x), get("e4m3fn").encode(x))


def test_e4m3_keeps_nan_and_the_sign_of_zero() -> None:
    with np.errstate(invalid="ignore"):
        codes = arrays.e4m3_codes(np.array([np.nan, 0.0, -0.0], np.float32))
    assert codes.tolist() == [0x7F, 0x00, 0x80]


def test_groups_come_back_in_the_shape_they_had() -> None:
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    groups = arrays.grouped(x, 4)
    assert groups.shape == (4, 4)
    assert groups[-1].tolist() == [12, 13, 14, 0]
    np.testing.assert_array_equal(arrays.ungrouped(groups, x.shape), x)


def test_nearest_codes_are_nearest() -> None:
    table = (-1.0, -0.25, 0.0, 0.3, 1.0)
    x = np.random.default_rng(1).uniform(-1.5, 1.5, 1000).astype(np.float32)
    best = np.abs(x[:, None] - np.array(table)).argmin(axis=1)
    np.testing.assert_array_equal(arrays.nearest_codes(x, table), best)


def test_bfloat16_to_nearest_is_the_format() -> None:
    x = np.random.default_rng(2).standard_normal(10_000).astype(np.float32)
    x = np.concatenate([x, np.float32([1 + 2**-8, 1 + 3 * 2**-8, 0.0, -0.0, 1e-40])])
    np.testing.assert_array_equal(arrays.to_bf16(x), get("bf16").encode(x))


def test_or_one_replaces_zeros_alone() -> None:
    assert arrays.or_one(np.array([0.0, 2.0], np.float32)).tolist() == [1.0, 2.0]
