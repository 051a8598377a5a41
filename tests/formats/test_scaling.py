"""Scale rules against their definitions in exact rational arithmetic, also where a floating log2 errs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import (
    CodebookFormat,
    FloatFormat,
    Format,
    IntFormat,
    ScaleRule,
    Scheme,
    fixed_point,
    quantize_reference,
    scale_from_amax,
)
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE, amax_scale, inverse_scale, scale_exponent

INFO = np.finfo(np.float32)
ELEMENTS: dict[str, Format] = {
    name: formats.get(name)
    for name in (
        "e4m3fn",
        "e5m2",
        "e2m3fn",
        "e3m2fn",
        "e2m1fn",
        "int8",
        "int4",
        "uint8",
        "e4m3fnuz",
        "q0.7",
        "q3.12",
    )
}
ELEMENTS["mxint8_element"] = formats.get("mxint8").element
ELEMENTS["q20.11"] = fixed_point(20, 11)
ELEMENTS["rf8"] = formats.get("rf8")
ELEMENTS["nf4"] = formats.get("nf4")
POWERS = [ScaleRule.FLOOR, ScaleRule.CEIL, ScaleRule.RCEIL, ScaleRule.EVEN, ScaleRule.POW2]
PAIRS = [
    (name, rule)
    for name, element in ELEMENTS.items()
    for rule in POWERS
    if rule is not ScaleRule.EVEN or isinstance(element, FloatFormat | IntFormat)
]
every_pair = pytest.mark.parametrize(("name", "rule"), PAIRS)


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > x)


def ceil_log2(x: Fraction) -> int:
    return -floor_log2(1 / x)


def mantissa_bits(element: Format) -> int:
    """Stored bits: significant bits of the largest value, less the leading one, of an integer."""
    if isinstance(element, FloatFormat):
        return element.mantissa_bits
    return int(element.max / element.smallest_subnormal).bit_length() - 1


def exponent_by_definition(amax: float, element: Format, rule: ScaleRule) -> int:
    a, largest = Fraction(amax), Fraction(element.max)
    emax = floor_log2(largest)
    if rule is ScaleRule.FLOOR:
        return floor_log2(a) - emax
    if rule is ScaleRule.CEIL:
        return ceil_log2(a) - emax
    if rule is ScaleRule.EVEN:
        exponent = floor_log2(a)
        unit = Fraction(2) ** (exponent - mantissa_bits(element))
        half_up = (a / unit + Fraction(1, 2)).__floor__() * unit
        return floor_log2(half_up) - emax
    return ceil_log2(a / largest)


def amaxes(element: Format) -> np.ndarray:
    """Powers of two, multiples of the element's maximum, rounding boundaries, subnormals, ends of float32 and
    random numbers, with the neighbours of them all."""
    k = np.concatenate([[-149, -148, -147, -140], np.arange(-128, -121), np.arange(-6, 7), [30, 100, 126, 127]])
    half_way = 2 - 2.0 ** -np.arange(1, 9)
    factors = np.concatenate([[1.0, element.max, element.max / 2], half_way, [464.0, 1.25, 1.5]])
    with np.errstate(over="ignore", under="ignore"):
        x = (np.exp2(k.astype(np.float64))[:, None] * factors).astype(np.float32).reshape(-1)
    rng = np.random.default_rng(3)
    x = np.concatenate([x, rng.standard_normal(100).astype(np.float32), [INFO.max, INFO.smallest_subnormal]])
    x = np.abs(x[np.isfinite(x)]).astype(np.float32)
    x = np.unique(np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, INFO.max)]))
    return x[x > 0]


@every_pair
def test_exponent_equals_its_definition(name: str, rule: ScaleRule) -> None:
    element = ELEMENTS[name]
    x = amaxes(element)
    exact = np.array([exponent_by_definition(a, element, rule) for a in x.tolist()])
    for lowest in (-126, -127):
        assert np.array_equal(scale_exponent(x, element, rule, lowest), np.clip(exact, lowest, 127))


@every_pair
def test_scale_is_two_to_the_exponent(name: str, rule: ScaleRule) -> None:
    element = ELEMENTS[name]
    x = amaxes(element)
    assert np.array_equal(scale_from_amax(x, element, rule), np.exp2(scale_exponent(x, element, rule).astype(float)))


@pytest.mark.parametrize("name", ELEMENTS)
def test_rceil_never_clips_and_is_the_smallest_that_does_not(name: str) -> None:
    element = ELEMENTS[name]
    x = amaxes(element)
    for rule in (ScaleRule.RCEIL, ScaleRule.POW2):
        exponent = scale_exponent(x, element, rule, lowest=-127)
        scaled = np.ldexp(x.astype(np.float64), -exponent)
        free = exponent < 127
        assert (scaled[free] <= element.max).all()
        assert (2 * scaled > element.max)[exponent > -127].all()


@pytest.mark.parametrize("name", ELEMENTS)
def test_ceil_never_clips_and_wastes_less_than_two_binades(name: str) -> None:
    element = ELEMENTS[name]
    x = amaxes(element)
    exponent = scale_exponent(x, element, ScaleRule.CEIL, lowest=-127)
    free = (exponent < 127) & (exponent > -127)
    scaled = np.ldexp(x.astype(np.float64), -exponent)[free]
    power = 2.0 ** floor_log2(Fraction(element.max))
    assert (scaled <= power).all()
    assert (2 * scaled > power).all()


@pytest.mark.parametrize("name", ELEMENTS)
def test_floor_clips_by_less_than_one_binade(name: str) -> None:
    element = ELEMENTS[name]
    x = amaxes(element)
    exponent = scale_exponent(x, element, ScaleRule.FLOOR, lowest=-127)
    free = (exponent < 127) & (exponent > -127)
    scaled = np.ldexp(x.astype(np.float64), -exponent)[free]
    power = 2.0 ** floor_log2(Fraction(element.max))
    assert ((scaled >= power) & (scaled < 2 * power)).all()


def test_float_log2_would_err_where_bit_fields_do_not() -> None:
    below = np.nextafter(np.float32(2.0**30), np.float32(0))
    assert np.floor(np.log2(below)) == 30.0
    assert scale_exponent(below, ELEMENTS["e4m3fn"], ScaleRule.FLOOR) == 29 - 8


def test_even_rounds_half_up() -> None:
    e4m3 = ELEMENTS["e4m3fn"]
    half_way = np.float32(1.9375)  # between 1.875 and 2 on the grid of three mantissa bits
    assert scale_exponent(half_way, e4m3, ScaleRule.EVEN) == 1 - 8
    assert scale_exponent(np.nextafter(half_way, np.float32(0)), e4m3, ScaleRule.EVEN) == 0 - 8


@pytest.mark.parametrize("rule", POWERS)
def test_exponents_stop_at_both_ends(rule: ScaleRule) -> None:
    e2m1, q = ELEMENTS["e2m1fn"], ELEMENTS["q0.7"]
    tiny = INFO.smallest_subnormal
    assert scale_exponent(tiny, e2m1, rule) == -126
    assert scale_exponent(tiny, e2m1, rule, lowest=-127) == -127
    assert scale_exponent(INFO.max, q, rule) == 127
    assert scale_from_amax(tiny, e2m1, rule) == 2.0**-126
    assert scale_from_amax(INFO.max, q, rule) == 2.0**127


@pytest.mark.parametrize("rule", POWERS)
def test_a_zero_group_has_scale_one_or_the_lowest_code(rule: ScaleRule) -> None:
    element = ELEMENTS["e4m3fn"]
    assert scale_from_amax(0.0, element, rule) == 1.0
    assert scale_exponent(0.0, element, rule) == 0
    assert scale_exponent(0.0, element, rule, lowest=-127, zero=-127) == -127


@pytest.mark.parametrize("rule", [ScaleRule.AMAX, *POWERS[:3]])
def test_a_zero_group_has_scale_zero_where_the_format_has_no_zero(rule: ScaleRule) -> None:
    element = CodebookFormat(name="no_zero_pair", table=(-1.0, 1.0))
    assert scale_from_amax([0.0, 2.0], element, rule).tolist() == [0.0, 2.0]
    q = quantize_reference(np.zeros((2, 3), np.float32), Scheme(element, (1, None), rule))
    assert np.array_equal(q.dequantize(), np.zeros((2, 3)))


@pytest.mark.parametrize("name", [name for name in ELEMENTS if name != "q20.11"])
def test_amax_scale_is_the_rounded_quotient(name: str) -> None:
    element = ELEMENTS[name]
    x = amaxes(element)
    largest = float(np.float32(element.max))
    assert largest == element.max
    # The float64 quotient of float32 numbers rounds to float32 as the exact one does.
    expected = np.clip(x.astype(np.float64) / largest, 2.0**-126, INFO.max).astype(np.float32)
    assert np.array_equal(scale_from_amax(x, element, ScaleRule.AMAX), expected)


def test_amax_scale_stays_finite_for_elements_below_one() -> None:
    scale = scale_from_amax(INFO.max, formats.get("rf8b20"), ScaleRule.AMAX)
    assert scale == INFO.max


@pytest.mark.parametrize("rule", [*POWERS, ScaleRule.AMAX])
def test_a_group_that_is_not_finite_has_a_nan_scale(rule: ScaleRule) -> None:
    scale = scale_from_amax([1.0, np.nan, np.inf, 0.0], ELEMENTS["e4m3fn"], rule)
    assert scale.dtype == np.float32
    assert np.isnan(scale).tolist() == [False, True, True, False]
    static = scale_from_amax([1.0, np.nan, np.inf, 0.0], ELEMENTS["e4m3fn"], ScaleRule.STATIC, static=0.25)
    assert np.array_equal(static, np.float32([0.25, np.nan, np.nan, 0.25]), equal_nan=True)


def test_amax_scale_of_zero_is_one_and_of_tiny_is_the_floor() -> None:
    assert amax_scale(0.0, 448.0) == 1.0
    assert amax_scale(1e-44, 448.0) == 2.0**-126
    assert amax_scale(1e-44, 2688.0, SMALLEST_OUTER_SCALE) == 2.0**-100


@pytest.mark.parametrize(("name", "rule"), [*PAIRS, ("e4m3fn", ScaleRule.AMAX), ("nf4", ScaleRule.AMAX)])
def test_scales_follow_powers_of_two(name: str, rule: ScaleRule) -> None:
    x = np.abs(np.random.default_rng(1).standard_normal(500)).astype(np.float32)
    scale = scale_from_amax(x, ELEMENTS[name], rule)
    for shift in (-20, 1, 17):
        shifted = np.ldexp(x, shift).astype(np.float32)
        assert np.array_equal(scale_from_amax(shifted, ELEMENTS[name], rule), np.ldexp(scale, shift))


def test_inverse_scale_is_zero_where_there_is_nothing_to_divide_by() -> None:
    scale = np.array([[3.0, 0.0], [np.nan, 2.0**-126]], dtype=np.float32)
    inverse = inverse_scale(scale)
    assert inverse.dtype == np.float32
    assert inverse.tolist() == [[float(np.float32(1) / np.float32(3)), 0.0], [0.0, 2.0**126]]


def test_shapes_are_kept() -> None:
    for rule in [*POWERS, ScaleRule.AMAX]:
        for shape in ((), (0,), (3, 0), (2, 3, 4)):
            assert scale_from_amax(np.ones(shape, np.float32), ELEMENTS["e4m3fn"], rule).shape == shape


def test_rules_that_need_more_than_amax_say_so() -> None:
    with pytest.raises(ValueError, match=r"^static: the static rule needs its scale"):
        scale_from_amax(1.0, ELEMENTS["e4m3fn"], ScaleRule.STATIC)
    with pytest.raises(ValueError, match=r"^rule: 'even' rounds amax to the element's mantissa bits, which nf4"):
        scale_from_amax(1.0, ELEMENTS["nf4"], ScaleRule.EVEN)
