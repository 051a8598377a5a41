"""`finfo`: the derived facts against the published table of formats."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import FloatFormat, finfo

#       name: max, smallest normal, smallest subnormal, finite codes, infinities, NaN
PUBLISHED = {
    "bf16": ((2 - 2.0**-7) * 2.0**127, 2.0**-126, 2.0**-133, 65280, True, True),
    "fp16": (65504, 2.0**-14, 2.0**-24, 63488, True, True),
    "e5m2": (57344, 2.0**-14, 2.0**-16, 248, True, True),
    "e4m3fn": (448, 2.0**-6, 2.0**-9, 254, False, True),
    "e4m3": (240, 2.0**-6, 2.0**-9, 240, True, True),
    "e3m4": (15.5, 2.0**-2, 2.0**-6, 224, True, True),
    "e4m3fnuz": (240, 2.0**-7, 2.0**-10, 255, False, True),
    "e5m2fnuz": (57344, 2.0**-15, 2.0**-17, 255, False, True),
    "e4m3b11fnuz": (30, 2.0**-10, 2.0**-13, 255, False, True),
    "e8m0fnu": (2.0**127, 2.0**-127, 2.0**-127, 255, False, True),
    "e2m3fn": (7.5, 1, 2.0**-3, 64, False, False),
    "e3m2fn": (28, 2.0**-2, 2.0**-4, 64, False, False),
    "e2m1fn": (6, 1, 0.5, 16, False, False),
    "e1m2": (1.75, 1, 0.25, 16, False, False),
    "binary8p3se": (49152, 2.0**-15, 2.0**-17, 253, True, True),
    "binary8p4sf": (240, 2.0**-7, 2.0**-10, 255, False, True),
    "int8": (127, 1, 1, 256, False, False),
    "rf8": (1.25, 0.75 * 2.0**-15, 0.75 * 2.0**-15, 225, False, True),
    "nf4": (1, 0.07958029955625534, 0.07958029955625534, 16, False, False),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_facts_are_the_published_ones(name: str) -> None:
    info = finfo(name)
    facts = (
        info.max,
        info.smallest_normal,
        info.smallest_subnormal,
        info.finite_codes,
        info.has_inf,
        info.has_nan,
    )
    assert facts == PUBLISHED[name]
    assert info.name == name
    assert info.scale == ""


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("e5m2", "float"),
        ("int4", "integer"),
        ("q3.4", "integer"),
        ("rf8", "residual float"),
        ("nf4", "codebook"),
        ("mxfp4", "block"),
    ],
)
def test_families(name: str, family: str) -> None:
    assert finfo(name).family == family


@pytest.mark.parametrize(
    ("name", "bits", "scale"),
    [
        ("mxfp8_e4m3", 8.25, "e8m0fnu per 32"),
        ("mxfp8_e5m2", 8.25, "e8m0fnu per 32"),
        ("mxfp6_e2m3", 6.25, "e8m0fnu per 32"),
        ("mxfp6_e3m2", 6.25, "e8m0fnu per 32"),
        ("mxfp4", 4.25, "e8m0fnu per 32"),
        ("mxint8", 8.25, "e8m0fnu per 32"),
        ("nvfp4", 4.5, "e4m3fn per 16 × fp32 per tensor"),
    ],
)
def test_block_formats_count_their_scales(name: str, bits: float, scale: str) -> None:
    info = finfo(name)
    assert (info.bits, info.scale) == (bits, scale)
    assert info.max == formats.get(name).element.max


@pytest.mark.parametrize("name", formats.names())
def test_every_format_is_described_by_plain_numbers(name: str) -> None:
    info = finfo(name)
    assert info == finfo(formats.get(name))
    for field in dataclasses.fields(info):
        assert type(getattr(info, field.name)) in (str, float, int, bool), field.name


@pytest.mark.parametrize(("mantissa_bits", "finite"), [(23, 4278190080), (10, 522240)])
def test_wide_floats_are_counted_without_listing(mantissa_bits: int, finite: int) -> None:
    wide = FloatFormat(
        name="wide",
        exponent_bits=8,
        mantissa_bits=mantissa_bits,
        bias=127,
        has_infinity=True,
        nan_codes=2**mantissa_bits - 1,
    )
    assert finfo(wide).finite_codes == finite
    assert finfo(wide).max == (2 - 2.0**-mantissa_bits) * 2.0**127


def test_epsilon_is_the_step_after_one() -> None:
    for name, numpy_type in (("fp16", np.float16), ("e5m2", None), ("e4m3fn", None)):
        info = finfo(name)
        assert info.epsilon == (
            float(np.finfo(numpy_type).eps) if numpy_type else {"e5m2": 0.25, "e4m3fn": 0.125}[name]
        )
