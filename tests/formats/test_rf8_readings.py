"""The other readings of RF8: levels, rules in exact arithmetic, both ends, and what each reading costs."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import RF8Reading, rf8, rf8_reading
from narrowgauge.numerics import relative_rms, sqnr_db

RULES = ("nearest", "floor", "floor_log")
BIASES = (15, 12, 0, -5)
OCTAVE = {
    "nearest": [0.75, 0.875, 0.9375, 1, 1.0625, 1.125, 1.25],
    "floor": [1, 1.0625, 1.125, 1.25, 1.5],
    "floor_log": [1, 1.0625, 1.125, 1.25, 1.5],
}


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > x)


def text_rule(x: float, logarithmic: bool) -> float:
    """The first set binary digit of x, and the second one (or the power of two nearest in the logarithm to what the
    first leaves) if it is at most four places lower; in exact arithmetic, without an end."""
    magnitude = abs(Fraction(x))
    k = floor_log2(magnitude)
    digit = Fraction(2) ** k
    rest = magnitude - digit
    if rest:
        d = floor_log2(rest)
        # log2(rest) >= d + 1/2 where (rest / 2^d)^2 > 2, which is never an equality.
        d += logarithmic and (rest / Fraction(2) ** d) ** 2 > 2
        digit += Fraction(2) ** d if k - d <= 4 else 0
    return float(digit if x > 0 else -digit)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("rule", RULES)
def test_levels_and_codes(rule: str, bias: int) -> None:
    fmt = rf8_reading(rule, bias)
    values = fmt.values()
    expected = [factor * 2.0 ** (e - bias) for e in range(16) for factor in OCTAVE[rule]]
    assert values[:128][values[:128] > 0].tolist() == expected
    assert values[0] == 0
    assert np.isnan(values[128])
    assert np.array_equal(values[129:], -values[1:128], equal_nan=True)
    assert np.isfinite(values).sum() == 2 * len(expected) + 1
    assert fmt.encode(np.nan) == fmt.nan_code == 0x80


def test_nearest_has_the_codes_of_rf8_and_its_nearest_rounding(rng: np.random.Generator) -> None:
    for bias in BIASES:
        nearest, published = rf8_reading("nearest", bias), rf8(bias)
        assert np.array_equal(nearest.values(), published.values(), equal_nan=True)
        levels = published.values()[np.isfinite(published.values())]
        ties = (np.sort(levels)[1:] + np.sort(levels)[:-1]) / 2
        x = np.concatenate([ties, levels, rng.standard_normal(2000) * 2.0**-bias * np.exp2(rng.uniform(-2, 17, 2000))])
        expected = published.encode(x, "nearest_even")
        assert np.array_equal(nearest.encode(x), expected)
        place = np.searchsorted(nearest.thresholds, np.abs(x), side="right")
        assert np.array_equal(
            np.concatenate([[0.0], np.sort(levels[levels > 0])])[place], np.abs(nearest.decode(expected))
        )


@pytest.mark.parametrize("rule", ["floor", "floor_log"])
def test_floor_readings_are_the_text_in_exact_arithmetic(rule: str, rng: np.random.Generator) -> None:
    fmt = rf8_reading(rule, 8)
    dense = 1 + np.arange(512) / 512
    x = np.concatenate([dense, -dense, rng.choice([-1, 1], 2000) * np.exp2(rng.uniform(-8, 7, 2000))])
    assert fmt.round(x).tolist() == [text_rule(value, rule == "floor_log") for value in x.tolist()]


def test_borders_of_floor_log_are_met_by_neighbours() -> None:
    fmt = rf8_reading("floor_log", 8)
    borders = fmt.thresholds[1 + 5 * 8 : 6 + 5 * 8]  # of the octave [1, 2)
    assert borders == pytest.approx([1 + 2.0**-d for d in (4.5, 3.5, 2.5, 1.5, 0.5)], rel=1e-15)
    assert fmt.round(np.nextafter(borders, 0)).tolist() == [1, 1.0625, 1.125, 1.25, 1.5]
    assert fmt.round(borders).tolist() == [1.0625, 1.125, 1.25, 1.5, 2]


@pytest.mark.parametrize(("rule", "least", "from_"), [("nearest", 0.75, 0.376), ("floor", 1, 1), ("floor_log", 1, 0.5)])
def test_both_ends(rule: str, least: float, from_: float) -> None:
    unit = 2.0**-15
    fmt = formats.get(f"rf8_{rule}")
    assert fmt.smallest_subnormal == least * unit
    assert fmt.max == (1.25 if rule == "nearest" else 1.5)
    assert fmt.encode([from_ * unit, -from_ * unit, 0.374 * unit, -0.374 * unit, -0.0]).tolist() == [1, 0x81, 0, 0, 0]
    assert fmt.round([1e30, -np.inf]).tolist() == [fmt.max, -fmt.max]
    assert fmt.round(0.99 * from_ * unit) == 0


@pytest.mark.parametrize("rule", RULES)
def test_names_carry_the_bias(rule: str) -> None:
    assert formats.get(f"rf8_{rule}") == rf8_reading(rule) == formats.get(f"rf8_{rule}_b15")
    assert formats.get(f"rf8_{rule}_b-3").bias == -3
    assert rf8_reading(rule, 12).name == f"rf8_{rule}_b12"
    assert pickle.loads(pickle.dumps(rf8_reading(rule, 12))) == rf8_reading(rule, 12)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^rule: got 'ceil', accepted: nearest, floor, floor_log"):
        rf8_reading("ceil")
    for bias in (-113, 126):
        with pytest.raises(ValueError, match=rf"^bias: RF8 takes -112 to 125.*got {bias}"):
            RF8Reading(name="", rule="floor", bias=bias)


def test_what_each_reading_costs(rng: np.random.Generator) -> None:
    # Gaussian data well inside the range; relative errors of the elements, and the mean gain of magnitudes.
    measured = {
        "rf8b10": (28.0, 0.0398, 0.1082, 1.0012),
        "rf8_nearest_b10": (28.4, 0.0378, 0.0910, 0.9985),
        "rf8_floor_b10": (19.0, 0.112, 0.25, 0.910),
        "rf8_floor_log_b10": (23.8, 0.064, 0.1717, 1.0113),
    }
    x = rng.standard_normal(400_000)
    inside = np.abs(x) > 2.0**-9
    for name, (decibel, rms, worst, mean_gain) in measured.items():
        q = formats.get(name).round(x)
        error = ((q - x) / x)[inside]
        assert sqnr_db(q, x) == pytest.approx(decibel, abs=0.15), name
        assert relative_rms(q, x) == pytest.approx(rms, rel=0.02), name
        assert np.abs(error).max() == pytest.approx(worst, rel=0.02), name
        assert np.abs(q).sum() / np.abs(x).sum() == pytest.approx(mean_gain, abs=0.001), name


def test_rf8_sits_between_e5m2_and_e4m3_whatever_the_shape(rng: np.random.Generator) -> None:
    # Unscaled data well inside the exponents that each of them has: 28.0, 28.45, 31.5 and 25.6 dB.
    expected = {"rf8b8": 28.0, "rf8_nearest_b8": 28.45, "e4m3fn": 31.5, "e5m2": 25.6}
    for shape in (0.5, 1.0, 2.0):
        x = rng.gamma(1 / shape, size=300_000) ** (1 / shape) * rng.choice([-1, 1], 300_000)
        x /= x.std()
        for name, decibel in expected.items():
            assert sqnr_db(formats.get(name).round(x), x) == pytest.approx(decibel, abs=0.2), (shape, name)


def test_errors_of_weight_only_products(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((256, 1024)), rng.standard_normal((1024, 1024)) * 0.02
    exact = x @ w.T
    measured = {"rf8": 0.0398, "rf8:pow2": 0.0398, "e4m3fn": 0.0263, "e4m3fn:static=1.0": 0.0330, "e5m2": 0.0526,
                "int8/row": 0.0079}  # fmt: skip
    for scheme, error in measured.items():
        q = formats.quantize_reference(w.astype(np.float32), scheme).dequantize()
        assert relative_rms(x @ q.T, exact) == pytest.approx(error, rel=0.03), scheme


@pytest.mark.parametrize(
    ("shape", "share"),
    [(2.0, 5e-5), (1.36, 1e-4), (1.0, 1.8e-4), (0.85, 3.4e-4), (0.5, 2.8e-3), (0.26, 0.056), (0.13, 0.54)],
)
def test_share_of_flushed_weights_by_shape(shape: float, share: float) -> None:
    # The largest of N = 10^8 values at its median, and the mass below half the smallest magnitude, from the law itself.
    from scipy.special import gammainc, gammainccinv

    amax = float(gammainccinv(1 / shape, np.log(2) / 1e8) ** (1 / shape))
    reach = int(np.frexp(amax)[1])
    fraction, exponent = np.frexp(rf8(12 - reach).round(amax))
    top = int(exponent) - 1 + int(2 * fraction > 1.25)
    flushed = float(gammainc(1 / shape, (0.375 * 2.0 ** (top - 15)) ** shape))
    assert flushed == pytest.approx(share, rel=0.5)
