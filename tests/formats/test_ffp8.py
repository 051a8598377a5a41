"""FFP8: every split of eight bits, exact rounding, and the bias that a tensor gets."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import ScaleRule, ffp8, ffp8_for, quantize_reference

SPLITS = [(w, True) for w in range(1, 8)] + [(w, False) for w in range(1, 9)]


def published_magnitudes(exponent_bits: int, mantissa_bits: int, bias: int) -> list[Fraction]:
    values = []
    for field in range(2**exponent_bits):
        for mantissa in range(2**mantissa_bits):
            part = Fraction(mantissa, 2**mantissa_bits)
            significand, exponent = (1 + part, field - bias) if field else (part, 1 - bias)
            values.append(significand * Fraction(2) ** exponent)
    return values


@pytest.mark.parametrize(("exponent_bits", "signed"), SPLITS)
@pytest.mark.parametrize("bias", [None, -3, 7, 20])
def test_every_code_is_finite_and_worth_what_the_fields_say(exponent_bits: int, signed: bool, bias: int | None) -> None:
    fmt = ffp8(exponent_bits, bias, signed)
    magnitudes = [float(v) for v in published_magnitudes(exponent_bits, fmt.mantissa_bits, fmt.bias)]
    assert fmt.values().tolist() == magnitudes + ([-value for value in magnitudes] if signed else [])
    assert (fmt.bits, fmt.finite_codes, fmt.has_nan, fmt.has_inf) == (8, 256, False, False)


def test_golden_limits() -> None:
    fmt = formats.get("ffp8_e4m3b7")
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal) == (480.0, 2.0**-6, 2.0**-9)
    unsigned = formats.get("ffp8_ue4m4b7")
    assert (unsigned.max, unsigned.min, unsigned.smallest_subnormal) == (496.0, 0.0, 2.0**-10)
    assert formats.get("ffp8_e2m5b1").max == 7.875
    assert formats.get("ffp8_e5m2b15").max == 114688.0


@pytest.mark.parametrize(("exponent_bits", "signed"), SPLITS)
def test_rounding_is_nearest_by_exact_search(exponent_bits: int, signed: bool, rng: np.random.Generator) -> None:
    fmt = ffp8(exponent_bits, 2, signed)
    levels = np.unique(fmt.values())
    exact = [Fraction(level) for level in levels.tolist()]
    inner = levels[np.abs(levels) < 2.0**100]
    middle = ((inner[1:] + inner[:-1]) / 2).astype(np.float32)
    probes = np.concatenate([middle, np.nextafter(middle, np.float32(-1e38)), np.nextafter(middle, np.float32(1e38))])
    x = np.concatenate([rng.choice(probes, 80), rng.standard_normal(40), inner[:20], [0.0, 1e-300]]).astype(np.float64)
    for value, q in zip(x.tolist(), fmt.round(x).tolist(), strict=True):
        assert abs(Fraction(value) - Fraction(q)) == min(abs(Fraction(value) - level) for level in exact), value


@given(
    st.lists(st.floats(2.0**-60, 2.0**60), min_size=1, max_size=20),
    st.sampled_from(SPLITS),
)
def test_range_bias_is_the_largest_that_does_not_clip(values: list[float], split: tuple[int, bool]) -> None:
    fmt = ffp8_for(np.array(values), *split)
    assert fmt.max >= max(values)
    assert fmt.max / 2 < max(values)
    assert ffp8(split[0], fmt.bias + 1, split[1]).max < max(values)


@pytest.mark.parametrize("exponent", [-30, 0, 17])
def test_range_bias_at_the_edges(exponent: int) -> None:
    top = 1.875 * 2.0**exponent
    edge = ffp8_for(np.array([-top]))
    assert edge.max == top
    assert ffp8_for(np.array([-np.nextafter(top, np.inf)])).bias == edge.bias - 1
    assert ffp8_for(np.array([-np.nextafter(top, 0)])).bias == edge.bias
    assert ffp8_for(np.array([-(2.0**exponent)])).bias == edge.bias


def test_sign_is_taken_only_where_it_is_needed() -> None:
    assert ffp8_for(np.array([0.5, 1.0])).name == "ffp8_ue4m4b15"
    assert ffp8_for(np.array([0.5, -1.0])).name == "ffp8_e4m3b15"
    assert ffp8_for(np.array([0.5, 1.0]), is_signed=True).signed
    with pytest.raises(ValueError, match=r"^is_signed: got False for an array with negative values"):
        ffp8_for(np.array([-1.0]), is_signed=False)


def test_mse_bias_has_the_least_error_of_the_candidates(rng: np.random.Generator) -> None:
    x = np.clip(1.5 * rng.standard_normal(2000), -4, 4)  # 4 just does not fit in the range that ends below 4
    for exponent_bits in (1, 2, 3, 4):
        chosen = ffp8_for(x, exponent_bits, criterion="mse")
        start = ffp8_for(x, exponent_bits)
        errors = [float(((ffp8(exponent_bits, start.bias + step).round(x) - x) ** 2).sum()) for step in range(9)]
        assert chosen.bias == start.bias + int(np.argmin(errors))
    assert ffp8_for(x, 1, criterion="mse").bias == ffp8_for(x, 1).bias + 1


def test_mse_keeps_the_range_where_clipping_costs_more() -> None:
    x = np.array([1.0, 1.5, 1.75, 0.5])
    assert ffp8_for(x, 4, criterion="mse").bias == ffp8_for(x, 4).bias


@given(st.integers(-20, 20), st.integers(-12, 12))
def test_moving_the_bias_is_a_power_of_two_scale(bias: int, shift: int) -> None:
    x = np.random.default_rng(3).standard_normal(64) * 2.0**-bias
    fmt, moved = ffp8(3, bias), ffp8(3, bias + shift)
    assert np.array_equal(fmt.encode(x), moved.encode(x * 2.0**-shift))


def test_scheme_with_the_rule_pow2_is_the_range_choice(rng: np.random.Generator) -> None:
    for scale in (1e-5, 0.3, 7.0):
        x = (rng.standard_normal(300) * scale).astype(np.float32)
        scheme = quantize_reference(x, "ffp8_e4m3b7")
        fmt = ffp8_for(x)
        assert np.array_equal(scheme.codes, fmt.encode(x))
        assert np.array_equal(scheme.dequantize(), fmt.round(x))


def test_zeros_get_the_default_bias() -> None:
    assert ffp8_for(np.zeros(3)) == ffp8(4, 7, is_signed=False)
    assert ffp8_for(np.zeros((0, 2), np.float32), is_signed=True) == ffp8(4)


def test_names_and_default_rule() -> None:
    assert formats.get("ffp8_e3m4b-5") == ffp8(3, -5)
    assert formats.get("ffp8_ue8m0b127") == ffp8(8, is_signed=False)
    assert ffp8(4).default_rule is ScaleRule.POW2
    with pytest.raises(
        ValueError, match=r"^ffp8: 'ffp8_e4m4b7' takes 3 mantissa bits to have eight in all: ffp8_e4m3b7"
    ):
        formats.get("ffp8_e4m4b7")


@pytest.mark.parametrize(("exponent_bits", "signed"), [(0, True), (8, True), (9, False)])
def test_impossible_splits_are_refused(exponent_bits: int, signed: bool) -> None:
    with pytest.raises(ValueError, match=rf"^exponent_bits: got {exponent_bits}, accepted: 1 to [78]"):
        ffp8(exponent_bits, is_signed=signed)


def test_chooser_refuses_what_it_cannot_choose_for() -> None:
    with pytest.raises(ValueError, match=r"^x: got NaN or infinities, accepted: finite values"):
        ffp8_for(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match=r"^criterion: got 'mae', accepted: range, mse"):
        ffp8_for(np.array([1.0]), criterion="mae")
    with pytest.raises(TypeError, match=r"^x: expected float16, float32 or float64"):
        ffp8_for(np.array([1]))
