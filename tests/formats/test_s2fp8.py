"""S2FP8: the two moments of the map, its inverse, and what happens at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import quantize_s2fp8
from narrowgauge.formats.s2fp8 import LARGEST_ALPHA, squeeze_factors, squeezed, unsqueezed

E5M2 = formats.get("e5m2")
MAGNITUDES = st.floats(2.0**-100, 2.0**100)


def test_factors_of_a_known_tensor() -> None:
    # log2: -4, 0, 1, 3; mean 0, maximum 3.
    assert squeeze_factors([2.0**-4, -1.0, 2.0, 8.0]) == (5.0, 0.0)
    # log2: -10, -8, -6; mean -8, maximum -6.
    assert squeeze_factors([2.0**-10, 2.0**-8, 0.0, -(2.0**-6)]) == (7.5, 60.0)


def test_codes_of_a_known_tensor() -> None:
    result = quantize_s2fp8([2.0**-10, 2.0**-8, 0.0, -(2.0**-6)])
    assert E5M2.decode(result.codes).tolist() == [2.0**-15, 1.0, 0.0, -(2.0**15)]
    assert result.dequantize().tolist() == [2.0**-10, 2.0**-8, 0.0, -(2.0**-6)]


@given(st.lists(MAGNITUDES, min_size=2, max_size=40).filter(lambda v: max(v) > 1.01 * min(v)))
def test_log_magnitudes_have_mean_0_and_maximum_15(values: list[float]) -> None:
    alpha, beta = squeeze_factors(values)
    logs = np.log2(squeezed(values, alpha, beta))
    assert logs.mean() == pytest.approx(0, abs=1e-8)
    assert logs.max() == pytest.approx(15, abs=1e-8)


@given(st.lists(MAGNITUDES, min_size=1, max_size=40), st.floats(0.2, 40))
def test_map_inverts_itself_and_keeps_order(values: list[float], alpha: float) -> None:
    x = np.sort(np.array(values))
    beta = -alpha * float(np.log2(x).mean())
    y = squeezed(x, alpha, beta)
    keep = (y > 1e-300) & np.isfinite(y)
    assert (np.diff(y[keep]) >= 0).all()
    np.testing.assert_allclose(unsqueezed(y[keep], alpha, beta), x[keep], rtol=1e-11)
    assert np.array_equal(squeezed(-x, alpha, beta), -y)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e20])
def test_relative_error_is_that_of_e5m2_under_the_root(scale: float, rng: np.random.Generator) -> None:
    x = rng.standard_normal(5000) * scale
    result = quantize_s2fp8(x)
    y = squeezed(x, result.alpha, result.beta)
    normal = np.abs(y) >= E5M2.smallest_normal
    assert normal.mean() > 0.8
    ratio = result.dequantize()[normal] / x[normal]
    bound = 1.125 ** (1 / result.alpha), 0.875 ** (1 / result.alpha)
    assert ratio.max() <= bound[0] * (1 + 1e-12)
    assert ratio.min() >= bound[1] * (1 - 1e-12)


def test_quantising_is_the_same_after_a_power_of_two(rng: np.random.Generator) -> None:
    x = rng.standard_normal(500)
    first, second = quantize_s2fp8(x), quantize_s2fp8(x * 2.0**40)
    assert second.alpha == pytest.approx(first.alpha, rel=1e-12)
    assert np.array_equal(first.codes, second.codes)
    np.testing.assert_allclose(second.dequantize(), first.dequantize() * 2.0**40, rtol=1e-12)


@pytest.mark.parametrize("value", [1.0, 0.3, -7e-20, 65504.0])
@pytest.mark.parametrize("count", [1, 5])
def test_constant_magnitude_is_clamped_and_kept(value: float, count: int) -> None:
    x = np.full(count, value) * np.where(np.arange(count) % 2, -1, 1)
    result = quantize_s2fp8(x)
    assert np.isfinite([result.alpha, result.beta]).all()
    assert result.alpha <= LARGEST_ALPHA
    assert np.abs(E5M2.decode(result.codes)).tolist() == [1.0] * count
    np.testing.assert_allclose(result.dequantize(), x, rtol=1e-13)


def test_nearly_constant_magnitude_stays_below_the_top(rng: np.random.Generator) -> None:
    x = 1 + rng.uniform(0, 1e-5, 100)
    result = quantize_s2fp8(x)
    assert result.alpha == pytest.approx(LARGEST_ALPHA)
    assert np.abs(E5M2.decode(result.codes)).max() < 2.0**15
    np.testing.assert_allclose(result.dequantize(), x, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (4,), (2, 0), (2, 3)])
def test_zeros_stay_zero(shape: tuple[int, ...]) -> None:
    result = quantize_s2fp8(np.zeros(shape, np.float32))
    assert (result.alpha, result.beta) == (1.0, 0.0)
    assert result.codes.shape == shape
    assert (result.dequantize() == 0).all()
    mixed = quantize_s2fp8([0.0, -0.0, 3.0, 1e-9])
    assert mixed.dequantize()[:2].tolist() == [0.0, 0.0]
    assert np.signbit(mixed.dequantize()[:2]).tolist() == [False, True]


def test_zeros_do_not_count_in_the_mean() -> None:
    assert squeeze_factors([0.0, 1.0, 4.0, 0.0]) == squeeze_factors([1.0, 4.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_take_the_whole_tensor_or_are_refused(bad: float) -> None:
    result = quantize_s2fp8(np.float32([1.0, bad, 0.0]))
    assert np.isnan([result.alpha, result.beta]).all()
    assert np.isnan(result.dequantize()).all()
    with pytest.raises(ValueError, match=r"^x: 1 of 3 values are NaN or infinite, and nonfinite='raise'"):
        quantize_s2fp8(np.float32([1.0, bad, 0.0]), nonfinite="raise")
    with pytest.raises(ValueError, match=r"^nonfinite: got 'ignore', accepted: propagate, raise"):
        quantize_s2fp8([1.0], nonfinite="ignore")


def test_stochastic_rounding_takes_either_neighbour(rng: np.random.Generator) -> None:
    x = rng.standard_normal(400)
    low, high = (quantize_s2fp8(x, rounding="stochastic", random_bits=bits) for bits in (0, 2**24 - 1))
    y = np.abs(squeezed(x, low.alpha, low.beta))
    assert (np.abs(E5M2.decode(low.codes)) <= y * (1 + 1e-12)).all()
    seen = y > 1e-11  # less is below the resolution of the random bits
    assert (np.abs(E5M2.decode(high.codes)) >= y * (1 - 1e-12))[seen].all()


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^x: expected float16, float32 or float64"):
        quantize_s2fp8([1, 2])
