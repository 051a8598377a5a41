"""RF8: the value table, the published rule on its boundaries, and the packed vectors of two biases."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import Rounding, rf8
from narrowgauge.formats.rf8 import bias_for, mantissa_thresholds

BIASES = [15, 12, 0, -5]
TABLE_15 = [
    [0.75, 0.875, 0.9375, 1, 1.0625, 1.125, 1.25],
    [0.375, 0.4375, 0.46875, 0.5, 0.53125, 0.5625, 0.625],
]
THRESHOLDS = {
    23: [0x05A828, 0x0B5050, 0x16A09F, 0x2D413D, 0x52BEC4, 0x695F62, 0x74AFB1],
    10: [46, 91, 182, 363, 662, 843, 934],
    7: [6, 12, 23, 46, 83, 106, 117],
}
LEVELS = [1.0, 1.0625, 1.125, 1.25, 1.5, 1.75, 1.875, 2.0]
VECTORS = {
    15: {
        0.0: 0x00, 1.0: 0x7C, -1.0: 0xFC, 0.75: 0x79, 0.7: 0x79, 1.25: 0x7F, 1.3: 0x7F, 1.36: 0x7F,
        2.0: 0x7F, 0.5: 0x74, -0.3: 0xEF, 0.1: 0x61, 0.02: 0x4F, 0.0123: 0x49, 0.001: 0x2C, 3e-5: 0x04,
        2.2888e-5: 0x01, 1.2e-5: 0x01, 1.1444091796875e-05: 0x01, 1.14e-5: 0x00, -1e-5: 0x00,
        np.inf: 0x7F, -np.inf: 0xFF,
    },
    12: {6.3: 0x79, 9.9: 0x7F, -5.0: 0xF7, 0.001: 0x14},
}  # fmt: skip
UNBOUNDED = {
    1: 1, 0.75: 0.75, 0.7: 0.75, 0.71: 0.75, 1.03: 1, 1.05: 1.0625, 1.3: 1.25, 1.36: 1.5, 1.4: 1.5, 1.42: 1.5,
    1.6: 1.5, 1.65: 1.75, 1.8: 1.75, 1.83: 1.875, 1.9: 1.875, 1.92: 2, 0.1: 0.09375, -0.3: -0.3125,
    0.02: 0.01953125, 0.0123: 0.01171875, 0.001: 0.0009765625, -1e-5: -9.5367431640625e-06, 1 / 3: 0.3125,
    0.5773503: 0.5625, 0.9: 0.875, 3.141592653589793: 3, -2.718281828459045: -3, 100: 96, 448: 448,
}  # fmt: skip


def log2_rounded(x: Fraction) -> int:
    """round(log2 x) of a positive rational, exactly: the half is at sqrt(2), which is never met."""
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > x
    return exponent + ((x / Fraction(2) ** exponent) ** 2 > 2)


def published_rule(x: float) -> float:
    """a + b of the module's first lines, in exact arithmetic and with an unbounded exponent."""
    magnitude = abs(Fraction(x))
    e = log2_rounded(magnitude)
    a = Fraction(2) ** e
    residual = magnitude - a
    if residual:
        d = log2_rounded(abs(residual))
        if e - d <= 4:
            a += Fraction(2) ** d if residual > 0 else -(Fraction(2) ** d)
    return float(a if x > 0 else -a)


@pytest.mark.parametrize("bias", BIASES)
def test_value_table(bias: int) -> None:
    fmt = rf8(bias)
    values = fmt.values()
    for code in range(256):
        exponent, j = code >> 3 & 15, code & 7
        if j:
            magnitude = (12, 14, 15, 16, 17, 18, 20)[j - 1] * 2.0 ** (exponent - bias - 4)
            assert values[code] == (-magnitude if code & 0x80 else magnitude)
        elif code == 0:
            assert values[code] == 0.0
        else:
            assert np.isnan(values[code])
    assert np.isfinite(values).sum() == 225
    assert np.isnan(values).sum() == 31


def test_published_rows_of_the_table() -> None:
    fmt = formats.get("rf8")
    assert fmt.decode(np.arange(0x79, 0x80)).tolist() == TABLE_15[0]
    assert fmt.decode(np.arange(0x71, 0x78)).tolist() == TABLE_15[1]
    assert fmt.decode([0x01, 0x07]).tolist() == [0.75 * 2.0**-15, 1.25 * 2.0**-15]
    assert (fmt.max, fmt.smallest_subnormal, fmt.nan_code) == (1.25, 0.75 * 2.0**-15, 0x80)


@pytest.mark.parametrize("bias", BIASES)
def test_integer_order_is_the_order_of_magnitudes(bias: int) -> None:
    magnitudes = rf8(bias).values()[:128]
    assert (np.diff(magnitudes[np.isfinite(magnitudes)]) > 0).all()


@pytest.mark.parametrize("bias", VECTORS)
def test_packed_vectors(bias: int) -> None:
    fmt = rf8(bias)
    for x, code in VECTORS[bias].items():
        assert fmt.encode(x) == code, x
        with np.errstate(over="ignore"):
            if abs(x) != 2.2888e-5:  # printed to five digits
                assert fmt.encode(np.float32(x)) == code, x


@pytest.mark.parametrize("bits", THRESHOLDS)
def test_thresholds_of_each_source_type(bits: int) -> None:
    assert list(mantissa_thresholds(bits)) == THRESHOLDS[bits]


@pytest.mark.parametrize("bits", [7, 10, 23, 52])
def test_thresholds_are_the_first_fields_above_irrational_boundaries(bits: int) -> None:
    # 1 + 2^-(h/2) and 2 - 2^-(h/2) as fields; a field f lies above 2^(bits - h/2) iff f² > 2^(2 bits - h).
    thresholds = mantissa_thresholds(bits)
    for field, halves in zip(thresholds[:4], (9, 7, 5, 3), strict=True):
        square = 2 ** (2 * bits - halves)
        assert (field - 1) ** 2 < square < field**2
    for field, halves in zip(thresholds[4:], (3, 5, 7), strict=True):
        square = 2 ** (2 * bits - halves)
        below = 2**bits - field
        assert below**2 < square < (below + 1) ** 2
        assert isqrt(square) == below


@pytest.mark.parametrize("exponent", [-2, 0, 3])
def test_boundary_pairs_in_float32(exponent: int) -> None:
    fmt = rf8(3)  # 2^exponent times 1 to 2 is inside its range
    for index, field in enumerate(THRESHOLDS[23]):
        pair = np.array([field - 1, field], dtype=np.uint32) + np.uint32((127 + exponent) << 23)
        expected = np.ldexp(LEVELS[index : index + 2], exponent)
        assert fmt.round(pair.view(np.float32)).tolist() == expected.tolist()


def test_rule_equals_exact_arithmetic_on_every_bf16_mantissa() -> None:
    fmt = rf8(8)
    x = 1 + np.arange(128) / 128
    assert fmt.round(x).tolist() == [published_rule(value) for value in x.tolist()]


def test_rule_equals_exact_arithmetic_on_random_values(rng: np.random.Generator) -> None:
    fmt = rf8(8)
    x = rng.choice([-1, 1], 2000) * np.exp2(rng.uniform(-8, 7, 2000))
    assert fmt.round(x).tolist() == [published_rule(value) for value in x.tolist()]


def test_published_vectors_of_the_unbounded_rule() -> None:
    for x, level in UNBOUNDED.items():
        fmt = rf8(4) if abs(x) > 0.05 else rf8(19)
        assert published_rule(float(np.float32(x))) == level, x
        assert fmt.round(np.float32(x)) == level, x


@pytest.mark.parametrize("bias", BIASES)
def test_both_ends(bias: int) -> None:
    fmt = rf8(bias)
    unit = 2.0**-bias
    least, tiny, top = 0.75 * unit, 0.375 * unit, 1.25 * 2.0**15 * unit
    assert (fmt.smallest_subnormal, fmt.max, fmt.min) == (least, top, -top)
    x = [
        np.nextafter(tiny, 0),
        tiny,
        least,
        np.nextafter(top, 0),
        top,
        np.nextafter(top, np.inf),
        2 * top,
        1e300,
    ]
    assert fmt.round(x).tolist() == [0.0, least, least, top, top, top, top, top]
    assert fmt.encode([-np.nextafter(tiny, 0), -tiny, -0.0]).tolist() == [0, 0x81, 0]


def test_the_rule_is_not_nearest() -> None:
    fmt = rf8(8)
    assert fmt.round(1.36) == 1.5
    assert fmt.round(1.36, Rounding.NEAREST_EVEN) == 1.25
    assert [fmt.round(b, "nearest_away").item() for b in (1.03125, 1.09375, 1.1875, 1.375)] == [
        1.0625,
        1.125,
        1.25,
        1.5,
    ]


def test_rule_is_equivariant_under_powers_of_two(rng: np.random.Generator) -> None:
    x = np.exp2(rng.uniform(-10, 0, 500))
    for shift in (-3, 1, 6):
        assert np.array_equal(rf8(10).round(x * 2.0**shift), rf8(10 + shift).round(x) * 2.0**shift)


def test_error_statistics(rng: np.random.Generator) -> None:
    # Gaussian data well inside the range: 28.0 dB, relative RMSE 0.0398, gain 1.0012; nearest gives 28.4 dB.
    fmt = rf8(10)
    x = rng.standard_normal(200_000)

    def sqnr(q: np.ndarray) -> float:
        return float(10 * np.log10((x**2).sum() / ((x - q) ** 2).sum()))

    q = fmt.round(x)
    assert sqnr(q) == pytest.approx(28.0, abs=0.15)
    assert sqnr(fmt.round(x, "nearest_even")) == pytest.approx(28.45, abs=0.15)
    assert np.sqrt((((q - x) / x)[np.abs(x) > 2.0**-9] ** 2).mean()) == pytest.approx(0.0397, abs=0.0004)
    assert np.abs(q).sum() / np.abs(x).sum() == pytest.approx(1.0012, abs=0.0005)
    assert np.abs((q - x) / x)[np.abs(x) > 2.0**-9].max() <= 0.1082


def test_every_level_is_exact_in_bf16_and_fp16() -> None:
    for name in ("bf16", "fp16"):
        levels = rf8(12).values()
        levels = levels[np.isfinite(levels)]
        assert np.array_equal(formats.get(name).round(levels), levels)


def test_stochastic_treats_both_signs_alike(rng: np.random.Generator) -> None:
    fmt = formats.get("rf8")
    x = rng.standard_normal(5000) * np.exp2(rng.uniform(-18, 1, 5000))
    bits = rng.integers(0, 2**24, 5000)
    q = fmt.round(x, "stochastic", random_bits=bits)
    assert np.array_equal(fmt.round(-x, "stochastic", random_bits=bits), -q)
    middle = (fmt.values()[1:7] + fmt.values()[2:8]) / 2
    for half, index in ((2**23 - 1, 0), (2**23, 1)):
        expected = fmt.values()[1 + index : 7 + index]
        assert np.array_equal(fmt.round(middle, "stochastic", random_bits=half), expected)
        assert np.array_equal(fmt.round(-middle, "stochastic", random_bits=half), -expected)


def test_names_carry_the_bias() -> None:
    assert formats.get("rf8b12") == rf8(12)
    assert rf8(12).name == "rf8b12"
    assert formats.get("rf8b15") == formats.get("rf8") == rf8()
    assert formats.get("rf8b-3").bias == -3


@pytest.mark.parametrize("bias", [-113, 126, 5000])
def test_biases_beyond_float32_are_refused(bias: int) -> None:
    with pytest.raises(ValueError, match=rf"^bias: rf8 takes -112 to 125.*got {bias}"):
        rf8(bias)


@pytest.mark.parametrize("bias", [-112, 125])
def test_extreme_biases_are_float32_numbers(bias: int) -> None:
    fmt = rf8(bias)
    values = fmt.values()[np.isfinite(fmt.values())]
    assert np.array_equal(values, values.astype(np.float32))
    assert np.array_equal(fmt.round(values), values)


@pytest.mark.parametrize("amax", [1.0, 1.25, 1.3, 1.3535, 1.36, 1.99, 2.0, 0.02, 3e-5, 700.0])
def test_the_bias_of_an_amax_ends_at_it(amax: float) -> None:
    rounded = rf8(int(10 - np.frexp(amax)[1])).round(amax)
    bias = bias_for(amax)
    assert rf8(bias).round(amax) == rounded
    assert rf8(bias).max >= rounded > rf8(bias + 1).max


def test_the_bias_of_no_amax() -> None:
    for amax in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"^amax: got .*, accepted: finite numbers > 0"):
            bias_for(amax)
    assert (bias_for(1e-300), bias_for(1e300)) == (125, -112)
