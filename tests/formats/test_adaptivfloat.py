"""AdaptivFloat: the published bias and value set, rounding by exact search, and the scheme that gives the same."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import Rounding, ScaleRule, adaptivfloat, quantize_adaptivfloat, quantize_reference

WIDTHS = [(8, 4), (8, 3), (6, 3), (4, 2), (5, 1), (4, 3), (9, 5)]


def published_values(bits: int, exponent_bits: int, bias: int) -> list[Fraction]:
    """The magnitudes of the paper, ascending: zero in the place of 2^bias."""
    m = bits - 1 - exponent_bits
    values = [
        (1 + Fraction(mantissa, 2**m)) * Fraction(2) ** (field + bias)
        for field in range(2**exponent_bits)
        for mantissa in range(2**m)
    ]
    return [Fraction(0), *values[1:]]


def published_rounding(x: float, values: list[Fraction]) -> set[Fraction]:
    """Signed nearest values (two at a tie) after the clamp."""
    magnitude = min(abs(Fraction(x)), values[-1])
    least = min(abs(magnitude - value) for value in values)
    return {(-value if x < 0 else value) for value in values if abs(magnitude - value) == least}


@pytest.mark.parametrize(("bits", "exponent_bits"), WIDTHS)
@pytest.mark.parametrize("bias", [-20, -7, 0, 3])
def test_values_are_the_published_ones(bits: int, exponent_bits: int, bias: int) -> None:
    fmt = adaptivfloat(bits, exponent_bits, bias)
    expected = [float(value) for value in published_values(bits, exponent_bits, bias)]
    assert fmt.values()[: 2 ** (bits - 1)].tolist() == expected
    assert fmt.values()[2 ** (bits - 1) :].tolist() == [-value for value in expected]
    m = bits - 1 - exponent_bits
    assert fmt.smallest_subnormal == 2.0**bias * (1 + 2.0**-m)
    assert fmt.max == 2.0 ** (bias + 2**exponent_bits - 1) * (2 - 2.0**-m)
    assert fmt.finite_codes == 2**bits


def test_adaptivfloat_8_3_golden() -> None:
    # m = 4, normalised bias -7: from 2^-7 · 17/16 to 31/16, sixteen steps an octave.
    fmt = formats.get("adaptivfloat8e3")
    assert (fmt.max, fmt.smallest_subnormal) == (1.9375, 0.00830078125)
    assert fmt.decode([0x00, 0x01, 0x0F, 0x10, 0x70, 0x7F, 0x80, 0xFF]).tolist() == [
        0.0, 17 / 2048, 31 / 2048, 1 / 64, 1.0, 1.9375, 0.0, -1.9375,
    ]  # fmt: skip
    assert formats.get("adaptivfloat4e2").values()[:8].tolist() == [0.0, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5]


@pytest.mark.parametrize(("bits", "exponent_bits"), WIDTHS)
def test_rounding_is_nearest_by_exact_search(bits: int, exponent_bits: int, rng: np.random.Generator) -> None:
    fmt = adaptivfloat(bits, exponent_bits)
    values = published_values(bits, exponent_bits, 1 - 2**exponent_bits)
    levels = np.array([float(value) for value in values])
    middle = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    steps = [np.nextafter(y, np.float32(side)) for y in (middle, levels.astype(np.float32)) for side in (-9, 9)]
    wide = rng.standard_normal(150) * np.exp2(rng.uniform(-(2.0**exponent_bits) - 2, 2, 150))
    x = np.concatenate([middle, *steps, wide.astype(np.float32), np.float32([0.0, 1e-30, 3e38])]).astype(np.float64)
    x = x if x.size < 300 else rng.choice(x, 300, replace=False)
    x = np.concatenate([x, -x])
    for value, q in zip(x.tolist(), fmt.round(x).tolist(), strict=True):
        assert Fraction(q) in published_rounding(value, values), value


@pytest.mark.parametrize(("bits", "exponent_bits"), WIDTHS)
def test_ties_go_to_the_even_code_and_half_of_the_smallest_to_zero(bits: int, exponent_bits: int) -> None:
    fmt = adaptivfloat(bits, exponent_bits)
    levels = fmt.values()[: 2 ** (bits - 1)]
    middle = (levels[1:] + levels[:-1]) / 2
    codes = fmt.encode(middle)
    assert (codes % 2 == 0).all()
    assert codes[0] == 0
    tiny = fmt.smallest_subnormal / 2
    assert fmt.round([np.nextafter(tiny, 0), tiny, np.nextafter(tiny, 1)]).tolist() == [0, 0, fmt.smallest_subnormal]


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.sampled_from(WIDTHS[:4]))
def test_scheme_and_tensor_function_agree(values: list[float], widths: tuple[int, int]) -> None:
    x = np.array(values, dtype=np.float32)
    x = np.where(np.abs(x) < 2.0**-100, np.float32(0), x)  # a scheme's scale is at least 2^-126
    direct = quantize_adaptivfloat(x, *widths)
    scheme = quantize_reference(x, f"adaptivfloat{widths[0]}e{widths[1]}")
    assert np.array_equal(direct.codes, scheme.codes)
    assert np.array_equal(direct.dequantize(), scheme.dequantize())


def test_bias_follows_the_largest_magnitude() -> None:
    assert quantize_adaptivfloat([1.0, -0.1], 8, 3).bias == -7
    assert quantize_adaptivfloat([0.1, -3.9], 8, 3).bias == 1 - 7
    assert quantize_adaptivfloat([np.nextafter(4.0, 0)], 8, 3).bias == 1 - 7
    assert quantize_adaptivfloat([4.0], 8, 3).bias == 2 - 7
    assert quantize_adaptivfloat(np.float16([6e-8]), 8, 3).bias == -24 - 7


def test_magnitudes_beyond_the_largest_value_are_clamped() -> None:
    result = quantize_adaptivfloat([1.99, -1.95, 0.5], 6, 3)
    assert result.dequantize().tolist() == [1.75, -1.75, 0.5]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_zero_tensors_and_shapes(shape: tuple[int, ...]) -> None:
    result = quantize_adaptivfloat(np.zeros(shape, np.float32), 8, 4)
    assert result.bias == -15
    assert result.codes.shape == result.dequantize().shape == shape
    assert (result.dequantize() == 0).all()


def test_stochastic_rounding_is_exact_in_expectation() -> None:
    words = np.arange(16)
    x = np.full(16, 0.75 + 1 / 64)  # a quarter of the way to 0.75 + 1/16, in steps of m = 3
    fmt = adaptivfloat(8, 4)
    q = fmt.round(x, Rounding.STOCHASTIC, random_bits=words, num_random_bits=4)
    assert sorted(set(q.tolist())) == [0.75, 0.8125]
    assert q.mean() == x[0]


def test_defaults_and_names() -> None:
    fmt = formats.get("adaptivfloat5e2")
    assert fmt == adaptivfloat(5, 2)
    assert fmt.default_rule is ScaleRule.FLOOR
    assert formats.get("adaptivfloat8e3b-9") == adaptivfloat(8, 3, -9)
    assert quantize_adaptivfloat([0.3], 8, 3).format.name == "adaptivfloat8e3b-9"


@pytest.mark.parametrize(("bits", "exponent_bits"), [(2, 1), (17, 4), (8, 8), (8, 0), (12, 9)])
def test_impossible_widths_are_refused(bits: int, exponent_bits: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^adaptivfloat: got {bits} bits with {exponent_bits} exponent bits, accepted"
    ):
        adaptivfloat(bits, exponent_bits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensor_function_refuses_what_has_no_exponent(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^x: got NaN or infinities, accepted: finite values"):
        quantize_adaptivfloat([1.0, bad], 8, 3)
    with pytest.raises(TypeError, match=r"^x: expected float16, float32 or float64, got int"):
        quantize_adaptivfloat([1, 2], 8, 3)
