"""Where ml_dtypes, gfloat, torch and the specifications contradict one another: what each does, what we do, and why.

One test for each row of the table in `docs/oracles.md`. `read` pins the other libraries: a version that changes its
mind fails here with a text that says so.
"""

from __future__ import annotations

from pathlib import Path

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat import Domain, RoundMode, Signedness
from gfloat import formats as gfloat_formats

from narrowgauge import formats
from narrowgauge.formats import ScaleRule, p3109, scale_from_amax
from oracles import GFLOAT, READ_FROM, read

INF, NAN = np.inf, np.nan


def by_ml_dtypes(name: str, x: list[float]) -> list[int]:
    """Codes of float32 x."""
    with np.errstate(all="ignore"):
        return np.array(x, dtype=np.float32).astype(getattr(ml_dtypes, name)).view(np.uint8).tolist()


def by_torch(dtype: torch.dtype, x: list[float]) -> list[int]:
    """Codes of float32 x."""
    return torch.tensor(x, dtype=torch.float32).to(dtype).view(torch.uint8).tolist()


def by_gfloat(name: str, x: list[float], *, saturate: bool) -> list[float]:
    """Values of float64 x, to nearest even."""
    return gfloat.round_ndarray(GFLOAT[name], np.array(x), RoundMode.TiesToEven, sat=saturate).tolist()


def test_the_documentation_names_the_versions() -> None:
    page = (Path(__file__).parents[2] / "docs" / "oracles.md").read_text(encoding="utf-8")
    for oracle, version in READ_FROM.items():
        assert f"| {oracle} {version} |" in page, oracle


def test_e4m3_overflow() -> None:
    """OCP has both rules: torch (since 2.13) saturates, ml_dtypes gives NaN, gfloat is told; so are we, by `overflow`,
    with saturation as the default."""
    x, fmt = [464.0, 465.0, 1e9], formats.get("e4m3fn")
    read("torch", by_torch(torch.float8_e4m3fn, x), [0x7E, 0x7E, 0x7E])
    read("ml_dtypes", by_ml_dtypes("float8_e4m3fn", x), [0x7E, 0x7F, 0x7F])
    read("gfloat", by_gfloat("e4m3fn", x, saturate=True), [448, 448, 448])
    read("gfloat", by_gfloat("e4m3fn", x, saturate=False), [448, NAN, NAN])
    assert fmt.encode(x).tolist() == [0x7E, 0x7E, 0x7E]
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [0x7E, 0x7F, 0x7F]


def test_infinities_to_e4m3() -> None:
    """The format has none: they overflow like finite numbers. `propagate` keeps them only where there is a code."""
    x, fmt = [INF, -INF], formats.get("e4m3fn")
    read("torch", by_torch(torch.float8_e4m3fn, x), [0x7E, 0xFE])
    read("ml_dtypes", by_ml_dtypes("float8_e4m3fn", x), [0x7F, 0xFF])
    read("gfloat", by_gfloat("e4m3fn", x, saturate=True), [448, -448])
    assert fmt.encode(x).tolist() == fmt.encode(x, overflow="propagate").tolist() == [0x7E, 0xFE]
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [0x7F, 0xFF]


def test_e5m2_overflow() -> None:
    """torch goes to infinity here although it saturates E4M3: our rule does not depend on the format."""
    x, fmt = [61439.0, 61440.0, INF], formats.get("e5m2")
    read("torch", by_torch(torch.float8_e5m2, x), [0x7B, 0x7C, 0x7C])
    read("ml_dtypes", by_ml_dtypes("float8_e5m2", x), [0x7B, 0x7C, 0x7C])
    assert fmt.encode(x).tolist() == [0x7B, 0x7B, 0x7B]
    assert fmt.encode(x, overflow="propagate").tolist() == [0x7B, 0x7B, 0x7C]
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [0x7B, 0x7C, 0x7C]


def test_which_of_its_codes_nan_has_in_e5m2() -> None:
    """Any of three per sign is right. Ours is IEEE's quiet one, as in ml_dtypes; torch has all bits set."""
    x = [NAN, -NAN]
    read("ml_dtypes", by_ml_dtypes("float8_e5m2", x), [0x7E, 0xFE])
    read("torch", by_torch(torch.float8_e5m2, x), [0x7F, 0xFF])
    read("gfloat", gfloat.encode_ndarray(GFLOAT["e5m2"], np.array(x)), [0xFF, 0xFF])
    assert formats.get("e5m2").encode(x).tolist() == [0x7E, 0xFE]


@pytest.mark.parametrize(("name", "negative_zero"), [("e2m3fn", 32), ("e3m2fn", 32), ("e2m1fn", 8)])
def test_nan_to_formats_without_nan(name: str, negative_zero: int) -> None:
    """ml_dtypes makes it a zero of the other sign, gfloat refuses; we refuse unless told to make it zero or max."""
    theirs = f"float{formats.get(name).bits}_{name}"
    read("ml_dtypes", by_ml_dtypes(theirs, [NAN, -NAN]), [negative_zero, 0])
    encoded = np.isnan(gfloat.round_ndarray(GFLOAT[name], np.array([NAN]), sat=True))
    read("gfloat", encoded, [True])  # it comes back unrounded, and only encoding refuses it
    with pytest.raises(ValueError, match="NaN"):
        gfloat.encode_float(GFLOAT[name], NAN)
    with pytest.raises(ValueError, match="has no NaN code; pass nan='zero' or nan='max'"):
        formats.get(name).encode(NAN)
    assert formats.get(name).encode(NAN, nan="zero") == 0
    assert formats.get(name).encode(NAN, nan="max") == negative_zero - 1


@pytest.mark.parametrize("name", ["e2m3fn", "e3m2fn", "e2m1fn"])
def test_overflow_of_formats_without_infinity_and_nan(name: str) -> None:
    """There is nothing to overflow to: ml_dtypes and we saturate in every mode, gfloat refuses unless it may."""
    fmt = formats.get(name)
    top = int(fmt.encode(fmt.max))
    read("ml_dtypes", by_ml_dtypes(f"float{fmt.bits}_{name}", [1e9, INF]), [top, top])
    with pytest.raises(ValueError, match="No Infs or NaNs in format"):
        by_gfloat(name, [1e9], saturate=False)
    assert fmt.encode([1e9, INF], overflow="nonsaturating").tolist() == [top, top]


def test_ties_between_powers_of_two() -> None:
    """E8M0 has no mantissa: ml_dtypes and torch round ties up, gfloat and we to the even code (P3109's rule)."""
    x = [0.75, 1.5, 3.0, 6.0, 1.5 * 2.0**127]
    read("ml_dtypes", by_ml_dtypes("float8_e8m0fnu", x), [127, 128, 129, 130, 255])
    read("torch", by_torch(torch.float8_e8m0fnu, x), [127, 128, 129, 130, 255])
    read("gfloat", by_gfloat("e8m0fnu", x, saturate=True), [0.5, 2.0, 2.0, 8.0, 2.0**127])
    assert formats.get("e8m0fnu").encode(x, overflow="nonsaturating").tolist() == [126, 128, 128, 130, 254]
    assert formats.get("e8m0fnu").encode(x, "nearest_away", overflow="nonsaturating").tolist() == [
        127,
        128,
        129,
        130,
        255,
    ]


def test_float32_subnormals_to_e8m0() -> None:
    """From 2^-127 to 2^-126 ml_dtypes and torch round everything up, however near the lower end; we to nearest."""
    x = [2.0**-127, (1 + 2.0**-22) * 2.0**-127, 1.25 * 2.0**-127, 1.75 * 2.0**-127, 2.0**-128, 2.0**-149]
    read("ml_dtypes", by_ml_dtypes("float8_e8m0fnu", x), [0, 1, 1, 1, 0, 0])
    read("torch", by_torch(torch.float8_e8m0fnu, x), [0, 1, 1, 1, 0, 0])
    assert formats.get("e8m0fnu").encode(x).tolist() == [0, 0, 0, 1, 0, 0]


def test_zero_and_negative_numbers_to_e8m0() -> None:
    """It has neither. ml_dtypes: NaN. torch: the smallest value, and of negative numbers the magnitude. gfloat: values
    that are not in the format. Ours: the smallest value, or NaN where overflow is told not to saturate."""
    x, fmt = [0.0, -0.0, -1.0, -3.0, -INF], formats.get("e8m0fnu")
    read("ml_dtypes", by_ml_dtypes("float8_e8m0fnu", x), [255] * 5)
    read("torch", by_torch(torch.float8_e8m0fnu, x), [0, 0, 127, 129, 255])
    read("gfloat", by_gfloat("e8m0fnu", [0.0, -1.0, -3.0, 2.0**-130], saturate=True), [0.0, -1.0, -4.0, 2.0**-130])
    assert fmt.encode(x).tolist() == [0] * 5
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [255] * 5


def test_float64_is_rounded_twice_by_arrays_of_ml_dtypes_and_torch() -> None:
    """Through float32, which lands on ties. Scalars of ml_dtypes' float8, gfloat and we round once."""
    x = [1.0625 + 2.0**-40, 464 + 2.0**-30, 2.0**-10 + 2.0**-50]
    once, twice = [1.125, NAN, 2.0**-9], [1.0, 448.0, 0.0]
    read("ml_dtypes", np.array(x).astype(ml_dtypes.float8_e4m3fn).astype(np.float64), twice)
    read("torch", torch.tensor(x, dtype=torch.float64).to(torch.float8_e4m3fn).double(), twice)
    read("ml_dtypes", [float(ml_dtypes.float8_e4m3fn(each)) for each in x], once)
    read("ml_dtypes", float(ml_dtypes.bfloat16(1 + 2.0**-8 + 2.0**-40)), 1.0)
    read("gfloat", by_gfloat("e4m3fn", x, saturate=False), once)
    assert np.array_equal(formats.get("e4m3fn").round(x, overflow="nonsaturating"), once, equal_nan=True)
    assert formats.get("bf16").round(1 + 2.0**-8 + 2.0**-40) == 1 + 2.0**-7


def test_float64_to_fp16_is_rounded_twice_by_torch() -> None:
    """numpy does it once, and so do we."""
    x = 1 + 2.0**-11 + 2.0**-40
    read("torch", torch.tensor(x, dtype=torch.float64).to(torch.float16).item(), 1.0)
    assert formats.get("fp16").round(x) == float(np.float64(x).astype(np.float16)) == 1 + 2.0**-10


def test_overflow_of_finite_p3109_domains() -> None:
    """gfloat follows report v3, where it is NaN; v4.0 clamps, and so do we."""
    x = [300.0, INF, -INF]
    info = gfloat_formats.format_info_p3109(8, 4, Signedness.Signed, Domain.Finite)
    read("gfloat", gfloat.round_ndarray(info, np.array(x), sat=False), [NAN, NAN, NAN])
    assert p3109(8, 4, extended=False).round(x, overflow="nonsaturating").tolist() == [240.0, 240.0, -240.0]


def test_negative_numbers_to_unsigned_formats() -> None:
    """gfloat rounds them to negative values, which the format does not have; P3109 and we clamp to 0 or give NaN."""
    info = gfloat_formats.format_info_p3109(8, 3, Signedness.Unsigned, Domain.Extended)
    read("gfloat", gfloat.round_ndarray(info, np.array([-3.0]), sat=True), [-3.0])
    fmt = p3109(8, 3, signed=False)
    assert fmt.round(-3.0) == 0.0
    assert np.isnan(fmt.round(-3.0, overflow="nonsaturating"))


@pytest.mark.parametrize("exponent", [3, 10, 30, -3])
def test_exponents_by_a_floating_point_logarithm(exponent: int) -> None:
    """The predecessor of a power of two has the logarithm of that power, rounded, so that gfloat's scale is twice what
    the MX specification says. We read the exponent's bits."""
    amax = np.nextafter(np.float32(2.0**exponent), np.float32(0))
    read("gfloat", gfloat.compute_scale_amax(2.0, np.array([amax])), 2.0 ** (exponent - 2))
    assert scale_from_amax(amax, formats.get("e2m1fn"), ScaleRule.FLOOR) == 2.0 ** (exponent - 3)


def test_random_bits_are_added_to_the_fraction_in_float64_by_gfloat() -> None:
    """That sum is rounded: a fraction below 2^-24 can carry to 1 with the largest random bits. Ours floors first."""
    x, bits = (2.0**-24 - 2.0**-77) * 2.0**-9, np.array([2**24 - 1])
    mode = RoundMode.StochasticFastest
    theirs = gfloat.round_ndarray(GFLOAT["e4m3fn"], np.array([x]), mode, srbits=bits, srnumbits=24)
    read("gfloat", theirs, [2.0**-9])
    assert formats.get("e4m3fn").round([x], "stochastic", random_bits=bits) == [0.0]


def test_the_stochastic_mode_that_rounds_the_fraction_to_odd_is_gfloats_alone() -> None:
    """`StochasticOdd` rounds ties of the fraction to the odd number of 2^-N where `Stochastic`, our `stochastic_c`,
    takes the even one."""
    x, bits = np.full(2, 1 + 2.5 / 2**3 / 2**3), np.array([5, 6])
    options = {"sat": True, "srbits": bits, "srnumbits": 3}
    odd = gfloat.round_ndarray(GFLOAT["e4m3fn"], x, RoundMode.StochasticOdd, **options)
    even = gfloat.round_ndarray(GFLOAT["e4m3fn"], x, RoundMode.Stochastic, **options)
    read("gfloat", odd, [1.125, 1.125])
    read("gfloat", even, [1.0, 1.125])
    ours = formats.get("e4m3fn").round(x, "stochastic_c", random_bits=bits, num_random_bits=3)
    assert ours.tolist() == [1.0, 1.125]


def test_what_lies_far_below_a_coarse_format() -> None:
    """gfloat scales a float64 subnormal to zero, so that rounding up does not see it; we keep a trace of it."""
    read("gfloat", gfloat.round_ndarray(GFLOAT["e3m2b-20"], np.array([5e-324]), RoundMode.TowardPositive), [0.0])
    fmt = formats.get("e3m2b-20")
    assert fmt.round(5e-324, "up") == fmt.smallest_subnormal


def test_floats_to_integers() -> None:
    """ml_dtypes and torch truncate, and ml_dtypes wraps around as well; we round to nearest and saturate."""
    x = [0.6, -1.5, 7.5, 8.0, -9.0]
    read("ml_dtypes", np.array(x, dtype=np.float32).astype(ml_dtypes.int4).astype(np.int8), [0, -1, 7, -8, 7])
    read("torch", torch.tensor(x).to(torch.int8), [0, -1, 7, 8, -9])
    assert formats.get("int4_full").encode(x).tolist() == [1, -2, 7, 7, -8]
    assert formats.get("int8").encode(x).tolist() == [1, -2, 8, 8, -9]


def test_a_changed_oracle_is_reported_with_its_version() -> None:
    with pytest.raises(AssertionError, match=r"gfloat \S+ gives \[2.0\] where 0.5.2 gave \[1.0\]. A contradiction has"):
        read("gfloat", [2.0], [1.0])
