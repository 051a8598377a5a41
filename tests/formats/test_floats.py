"""Minifloats against ml_dtypes, gfloat and the published numbers.

Where the oracles differ from each other the tests say so: ml_dtypes rounds float64 through float32 (it is fed
float32 here), rounds to e8m0fnu half up, and turns NaN into -0 where a format has no NaN; gfloat refuses NaN
there.
"""

from __future__ import annotations

import gfloat
import ml_dtypes
import numpy as np
import pytest
from gfloat import Domain, FormatInfo, RoundMode
from gfloat.formats import format_info_bfloat16, format_info_binary16, format_info_ocp_e8m0

from narrowgauge import formats
from narrowgauge.formats import FloatFormat, Overflow, Rounding


def generic(
    bits: int, precision: int, bias: int, domain: Domain, nans: int, *, negative_zero: bool = True
) -> FormatInfo:
    return FormatInfo(
        name="generic",
        k=bits,
        precision=precision,
        bias=bias,
        is_signed=True,
        domain=domain,
        has_nz=negative_zero,
        num_high_nans=nans,
        has_subnormals=True,
        is_twos_complement=False,
    )


FINITE, EXTENDED = Domain.Finite, Domain.Extended
GFLOAT = {
    "e4m3fn": generic(8, 4, 7, FINITE, 1),
    "e5m2": generic(8, 3, 15, EXTENDED, 3),
    "e4m3": generic(8, 4, 7, EXTENDED, 7),
    "e3m4": generic(8, 5, 3, EXTENDED, 15),
    "e4m3fnuz": generic(8, 4, 8, FINITE, 0, negative_zero=False),
    "e5m2fnuz": generic(8, 3, 16, FINITE, 0, negative_zero=False),
    "e4m3b11fnuz": generic(8, 4, 11, FINITE, 0, negative_zero=False),
    "e2m3fn": generic(6, 4, 1, FINITE, 0),
    "e3m2fn": generic(6, 3, 3, FINITE, 0),
    "e2m1fn": generic(4, 2, 1, FINITE, 0),
    "e1m2": generic(4, 3, 1, FINITE, 0),
    "fp16": format_info_binary16,
    "bf16": format_info_bfloat16,
    "e8m0fnu": format_info_ocp_e8m0,
}
ML_DTYPES = {
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e2m3fn": ml_dtypes.float6_e2m3fn,
    "e3m2fn": ml_dtypes.float6_e3m2fn,
    "e2m1fn": ml_dtypes.float4_e2m1fn,
    "e8m0fnu": ml_dtypes.float8_e8m0fnu,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
}
MODES = {
    Rounding.NEAREST_EVEN: RoundMode.TiesToEven,
    Rounding.NEAREST_AWAY: RoundMode.TiesToAway,
    Rounding.TOWARD_ZERO: RoundMode.TowardZero,
    Rounding.UP: RoundMode.TowardPositive,
    Rounding.DOWN: RoundMode.TowardNegative,
}
ROUNDED_BY_GFLOAT = [name for name in GFLOAT if name != "e8m0fnu"]
ALL_FP16 = np.arange(2**16, dtype=np.uint16).view(np.float16)


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Equal values, with the sign of zeros, and NaN in the same places."""
    real = ~np.isnan(expected)
    signs = np.array_equal(np.signbit(actual[real]), np.signbit(expected[real]))
    return np.array_equal(actual, expected, equal_nan=True) and signs


def rounded_by_gfloat(name: str, x: np.ndarray, mode: Rounding, *, saturate: bool) -> np.ndarray:
    with np.errstate(over="ignore"):
        return gfloat.round_ndarray(GFLOAT[name], x, MODES[mode], sat=saturate)


def probes(fmt: FloatFormat, narrow: type[np.floating]) -> np.ndarray:
    """Every value, midpoint and overflow threshold, each with its two neighbours in `narrow`, in both signs;
    and tiny, huge and random numbers. float64, exact in `narrow`."""
    values = np.unique(np.abs(fmt.values()[np.isfinite(fmt.values())]))
    step = 2.0 ** (fmt.emax - fmt.mantissa_bits)
    beyond = fmt.max + step * np.array([0.5, 1.0, 1.5, 4.0])
    centres = np.concatenate([values, (values[1:] + values[:-1]) / 2, [values[1] / 2, values[1] / 4], beyond])
    info = np.finfo(narrow)
    with np.errstate(over="ignore"):
        x = centres.astype(narrow)
    x = x[np.isfinite(x)]
    rng = np.random.default_rng(5)
    other = (rng.standard_normal(2000) * np.exp(rng.uniform(-20, 12, 2000))).astype(narrow)
    ends = np.array([info.smallest_subnormal, info.smallest_normal, info.max], dtype=narrow)
    with np.errstate(over="ignore"):
        x = np.concatenate([x, np.nextafter(x, narrow(np.inf)), np.nextafter(x, narrow(-np.inf)), other, ends])
    x = np.unique(x.astype(np.float64))
    return np.concatenate([x, -x])


@pytest.mark.parametrize("name", GFLOAT)
def test_decode_equals_gfloat_on_every_code(name: str) -> None:
    fmt = formats.get(name)
    expected = gfloat.decode_ndarray(GFLOAT[name], fmt.all_codes().astype(np.int64))
    assert same(fmt.values(), expected)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_decode_equals_ml_dtypes_on_every_code(name: str) -> None:
    fmt = formats.get(name)
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = fmt.all_codes().view(ML_DTYPES[name]).astype(np.float64)
    assert same(fmt.values(), expected)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_encode_equals_ml_dtypes_on_all_fp16_inputs(name: str) -> None:
    fmt = formats.get(name)
    x = ALL_FP16.astype(np.float32)
    if not fmt.has_nan or name == "fp16":
        x = x[~np.isnan(x)]  # ml_dtypes gives -0 where there is no NaN, numpy keeps the payload of each
    if name == "e8m0fnu":
        x = x[np.frexp(x)[0] != 0.75]  # ties, which ml_dtypes rounds half up
    with np.errstate(all="ignore"):
        expected = x.astype(ML_DTYPES[name]).view(fmt.code_dtype)
    assert np.array_equal(fmt.encode(x, overflow="nonsaturating"), expected)


@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name != "e8m0fnu"])
def test_encode_equals_ml_dtypes_around_every_value_and_midpoint(name: str) -> None:
    fmt = formats.get(name)
    x = probes(fmt, np.float32)
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32).astype(ML_DTYPES[name]).view(fmt.code_dtype)
    assert np.array_equal(fmt.encode(x, overflow="nonsaturating"), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROUNDED_BY_GFLOAT)
def test_rounding_equals_gfloat_around_every_value_and_midpoint(name: str, mode: Rounding) -> None:
    fmt = formats.get(name)
    x = np.concatenate([probes(fmt, np.float64), probes(fmt, np.float32), [0.0, -0.0, np.inf, -np.inf]])
    assert same(fmt.round(x, mode), rounded_by_gfloat(name, x, mode, saturate=True))
    if fmt.has_nan:
        expected = rounded_by_gfloat(name, x, mode, saturate=False)
        assert same(fmt.round(x, mode, overflow=Overflow.NONSATURATING), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROUNDED_BY_GFLOAT)
def test_rounding_equals_gfloat_on_all_fp16_inputs(name: str, mode: Rounding) -> None:
    fmt = formats.get(name)
    x = ALL_FP16.astype(np.float64)
    x = x[~np.isnan(x)]
    assert same(fmt.round(x, mode), rounded_by_gfloat(name, x, mode, saturate=True))


@pytest.mark.parametrize("num_bits", [1, 8, 16, 24])
@pytest.mark.parametrize("name", ROUNDED_BY_GFLOAT)
def test_stochastic_rounding_equals_gfloat_under_the_same_bits(name: str, num_bits: int) -> None:
    # Its "fastest" variant adds the bits to the fraction, which is our floor(frac · 2^N) + R >= 2^N.
    rng = np.random.default_rng(num_bits)
    fmt = formats.get(name)
    x = rng.choice(probes(fmt, np.float32), 20_000)
    bits = rng.integers(0, 2**num_bits, x.shape)
    mode = RoundMode.StochasticFastest
    expected = gfloat.round_ndarray(GFLOAT[name], x, mode, sat=True, srbits=bits, srnumbits=num_bits)
    assert same(fmt.round(x, "stochastic", random_bits=bits, num_random_bits=num_bits), expected)


@pytest.mark.parametrize("mode", MODES)
def test_e8m0_rounds_by_the_parity_of_its_code(mode: Rounding) -> None:
    # gfloat does not clamp to the format, so only its inner range is compared.
    fmt = formats.get("e8m0fnu")
    x = probes(fmt, np.float64)
    x = x[(x >= 2.0**-127) & (x <= 2.0**127)]
    assert same(fmt.round(x, mode), rounded_by_gfloat("e8m0fnu", x, mode, saturate=True))
    if mode is Rounding.NEAREST_EVEN:
        assert fmt.round([0.75, 1.5, 3.0, 6.0]).tolist() == [0.5, 2.0, 2.0, 8.0]


def test_e8m0_has_neither_zero_nor_sign() -> None:
    fmt = formats.get("e8m0fnu")
    x = [0.0, -0.0, 2.0**-200, -1.0, -np.inf, np.inf]
    assert fmt.encode(x).tolist() == [0, 0, 0, 0, 0, 254]
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [255, 255, 0, 255, 255, 255]
    assert fmt.encode(1.5 * 2.0**127).item() == 254
    assert fmt.encode(1.5 * 2.0**127, overflow="nonsaturating").item() == 254  # the tie goes to the even code
