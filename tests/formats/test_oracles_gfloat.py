"""Against gfloat: every code, every rounding mode, saturating and not, under the same random bits.

gfloat rounds from float64 exactly, so it is fed float64 neighbours as well.
"""

from __future__ import annotations

import gfloat
import numpy as np
import pytest
from gfloat import formats as gfloat_formats

from narrowgauge import formats
from narrowgauge.formats import Overflow, Rounding, quantize_reference
from oracles import (
    GFLOAT,
    GFLOAT_MODES,
    GFLOAT_STOCHASTIC,
    around,
    differences,
    hard_inputs,
    million,
    same,
    sixteen_bit_inputs,
    wide,
)

ROUNDED = [name for name in GFLOAT if name != "e8m0fnu"]
MX = {
    "mxfp8_e4m3": gfloat_formats.format_info_mxfp8_e4m3,
    "mxfp8_e5m2": gfloat_formats.format_info_mxfp8_e5m2,
    "mxfp6_e2m3": gfloat_formats.format_info_mxfp6_e2m3,
    "mxfp6_e3m2": gfloat_formats.format_info_mxfp6_e3m2,
    "mxfp4": gfloat_formats.format_info_mxfp4_e2m1,
    "mxint8": gfloat_formats.format_info_mxint8,
}


def check(name: str, x: np.ndarray, mode: Rounding, overflow: Overflow) -> str:
    """What differs between our rounding and gfloat's."""
    fmt, x = formats.get(name), wide(x)
    with np.errstate(over="ignore"):
        saturate = overflow is Overflow.SATURATE
        expected = gfloat.round_ndarray(GFLOAT[name], x, GFLOAT_MODES[mode], sat=saturate)
    return differences(fmt.round(x, mode, overflow=overflow), expected, x)


def overflows(name: str) -> list[Overflow]:
    """What gfloat can do: it refuses to overflow without infinities and NaN."""
    has_special = formats.get(name).has_nan or formats.get(name).has_inf
    return [Overflow.SATURATE, Overflow.NONSATURATING] if has_special else [Overflow.SATURATE]


@pytest.mark.parametrize("name", GFLOAT)
def test_decode_equals_gfloat_on_every_code(name: str) -> None:
    fmt = formats.get(name)
    assert same(fmt.values(), gfloat.decode_ndarray(GFLOAT[name], fmt.all_codes().astype(np.int64)))


@pytest.mark.parametrize("name", ROUNDED)
def test_nearest_equals_gfloat_on_all_16_bit_inputs_around_every_value_and_on_a_million_more(name: str) -> None:
    x = hard_inputs(formats.get(name))
    for overflow in overflows(name):
        assert not check(name, x, Rounding.NEAREST_EVEN, overflow), overflow


@pytest.mark.parametrize("name", ROUNDED)
def test_every_mode_equals_gfloat_on_all_16_bit_inputs_and_around_every_value(name: str) -> None:
    fmt = formats.get(name)
    x = np.concatenate([wide(sixteen_bit_inputs(fmt)), around(fmt), around(fmt, np.float64)])
    if fmt.smallest_subnormal > 1:  # there gfloat loses what lies far below
        x = x[(x == 0) | ~(np.abs(x) < 2.0**-1000)]
    for mode in GFLOAT_MODES:
        for overflow in overflows(name):
            assert not check(name, x, mode, overflow), (mode, overflow)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in GFLOAT_MODES if mode is not Rounding.NEAREST_EVEN])
@pytest.mark.parametrize("name", ROUNDED)
def test_every_mode_equals_gfloat_on_a_million_floats(name: str, mode: Rounding) -> None:
    x = million(formats.get(name))
    x = x if formats.get(name).has_nan else x[~np.isnan(x)]
    for overflow in overflows(name):
        assert not check(name, x, mode, overflow), overflow


@pytest.mark.parametrize("mode", GFLOAT_STOCHASTIC)
@pytest.mark.parametrize("num_bits", [1, 8, 24])
@pytest.mark.parametrize("name", ROUNDED)
def test_stochastic_modes_equal_gfloat_under_the_same_bits(name: str, num_bits: int, mode: Rounding) -> None:
    fmt, rng = formats.get(name), np.random.default_rng(num_bits)
    x = np.concatenate([rng.choice(around(fmt), 10_000), rng.choice(million(fmt), 10_000)])
    x = x[np.isfinite(x)].astype(np.float64)
    bits = rng.integers(0, 2**num_bits, x.shape)
    theirs = GFLOAT_STOCHASTIC[mode]
    with np.errstate(over="ignore"):
        expected = gfloat.round_ndarray(GFLOAT[name], x, theirs, sat=True, srbits=bits, srnumbits=num_bits)
    assert not differences(fmt.round(x, mode, random_bits=bits, num_random_bits=num_bits), expected, x)


@pytest.mark.parametrize("mode", GFLOAT_MODES)
def test_e8m0_rounds_like_gfloat_within_its_range(mode: Rounding) -> None:
    x = around(formats.get("e8m0fnu"), np.float64)
    x = np.concatenate([x, wide(million(formats.get("e8m0fnu")))])
    assert not check("e8m0fnu", x[(x >= 2.0**-127) & (x <= 2.0**127)], mode, Overflow.SATURATE)


@pytest.mark.parametrize("mode", GFLOAT_MODES)
def test_the_mx_integer_equals_gfloat(mode: Rounding) -> None:
    fmt, info = formats.get("int8f6_full"), gfloat_formats.format_info_ocp_int8
    assert same(fmt.values(), gfloat.decode_ndarray(info, np.arange(256)))
    x = np.concatenate([wide(sixteen_bit_inputs(fmt)), around(fmt), around(fmt, np.float64)])
    with np.errstate(over="ignore"):
        expected = gfloat.round_ndarray(info, x, GFLOAT_MODES[mode], sat=True)
    # An integer has no -0; gfloat says so too, but lets the sign of what rounds to zero stand in some of its modes.
    assert not differences(fmt.round(x, mode), expected + 0.0, x)


@pytest.mark.parametrize("name", MX)
def test_blocks_equal_gfloat(name: str) -> None:
    """Scales by the rule of the specification, elements and values, of 300 blocks over many binades."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 32)) * np.exp2(rng.uniform(-40, 40, (300, 1)))
    x = np.concatenate([x, np.zeros((1, 32)), np.ones((1, 32))]).astype(np.float32)
    q = quantize_reference(x, f"{name}:floor")
    values, factors = q.dequantize(), formats.get(name).scales(q.scale)
    for i, block in enumerate(x.astype(np.float64)):
        expected = gfloat.quantize_block(MX[name], block, gfloat.compute_scale_amax)
        if name == "mxint8":  # it also encodes to -2, ours leaves that code out
            expected = np.maximum(expected, -127 / 64 * factors[i])
        assert np.array_equal(values[i], expected), i
