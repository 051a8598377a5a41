"""The dynamic-tree maps against their published values."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats

SIGNED = formats.get("dynamic8")
UNSIGNED = formats.get("udynamic8")


@pytest.mark.parametrize("fmt", [SIGNED, UNSIGNED])
def test_map_has_256_ascending_float32_values_with_zero_and_one(fmt: formats.CodebookFormat) -> None:
    values = fmt.values()
    assert values.shape == (256,)
    assert np.all(np.diff(values) > 0)
    assert 0.0 in values
    assert values[-1] == 1.0
    np.testing.assert_array_equal(values, values.astype(np.float32))


def test_signed_map_has_its_published_ends() -> None:
    values = SIGNED.values()
    assert values[0] == np.float32(-0.99296875)
    np.testing.assert_allclose(values[125:130], [-3.25e-6, -5.5e-7, 0, 5.5e-7, 3.25e-6], rtol=1e-7)
    assert SIGNED.smallest_subnormal == pytest.approx(5.5e-7)
    np.testing.assert_array_equal(values[:127], -values[128:255][::-1])


def test_signed_map_halves_its_density_with_every_decade() -> None:
    positive = SIGNED.values()[SIGNED.values() > 0]
    edges = 10.0 ** np.arange(-7, 1)
    counts = np.histogram(positive, bins=[*edges[:-1], 1.1])[0]
    assert counts.tolist() == [1, 2, 4, 8, 16, 32, 65]


def test_unsigned_map_starts_and_ends_as_published() -> None:
    values = UNSIGNED.values()
    np.testing.assert_allclose(values[:4], [0, 3.25e-7, 7.75e-7, 2.125e-6], rtol=1e-7)
    assert values[-2] == pytest.approx(0.9965, abs=5e-5)
    counts = np.histogram(values[1:], bins=[*(10.0 ** np.arange(-7, 0)), 1.1])[0]
    assert counts.tolist() == [2, 4, 8, 16, 32, 64, 129]


@pytest.mark.parametrize(("fmt", "spacing"), [(SIGNED, 0.0140625), (UNSIGNED, 0.00703125)])
def test_top_decade_is_linear(fmt: formats.CodebookFormat, spacing: float) -> None:
    values = fmt.values()
    top = values[(values > 0.1) & (values < 1)]
    np.testing.assert_allclose(np.diff(top), spacing, rtol=1e-5)


def test_encode_takes_the_nearest_entry() -> None:
    values = SIGNED.values()
    x = np.random.default_rng(3).uniform(-1, 1, 5000)
    distance = np.abs(values[:, None] - x)
    assert np.all(np.abs(SIGNED.round(x) - x) == distance.min(axis=0))


def test_minus_one_is_not_in_the_signed_map() -> None:
    assert SIGNED.round(-1.0) == np.float32(-0.99296875)
