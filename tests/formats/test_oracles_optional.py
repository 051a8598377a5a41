"""Against the oracles of the extra `oracles`, each skipped where it is not installed: agreement.

HiF8 and narrow floats by en-dtypes, posits by SoftPosit, the OCP and P3109 types by bitstring, IEEE-like floats of any
width in ten rounding modes by apytypes, P3109 in nine by pychop.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import FloatFormat, p3109, quantize_reference
from tests.formats.oracles import EVERY_BF16, EVERY_FP16, around, differences, million, same, wide

EN_DTYPES = {"e1m2": "float4_e1m2", "e2m1fn": "float4_e2m1", "e2m3fn": "float6_e2m3", "e3m2fn": "float6_e3m2"}
SOFTPOSIT = {"posit8es0": 8, "posit16es1": 16, "posit8es2": None, "posit16es2": None, "posit6es2": None}
BITSTRING = {
    "e4m3fn": ("e4m3mxfp_saturate", "e4m3mxfp_overflow"),
    "e5m2": ("e5m2mxfp_saturate", "e5m2mxfp_overflow"),
    "e3m2fn": ("e3m2mxfp", None),
    "e2m3fn": ("e2m3mxfp", None),
    "e2m1fn": ("e2m1mxfp", None),
    "int8f6_full": ("mxint", None),
    "bf16": (None, "bfloat"),
    "binary8p3se": (None, "p3binary"),
    "binary8p4se": (None, "p4binary"),
}
IEEE = ["e5m2", "e4m3", "e3m4", "e5m6", "fp16", "bf16", "tf32", "e6m9b31i", "e2m3b1i"]
APYTYPES_MODES = {
    "nearest_even": "TIES_EVEN",
    "nearest_away": "TIES_AWAY",
    "nearest_zero": "TIES_ZERO",
    "nearest_odd": "TIES_ODD",
    "toward_zero": "TO_ZERO",
    "up": "TO_POS",
    "down": "TO_NEG",
    "to_odd": "JAM_UNBIASED",
}
PYCHOP_MODES = {
    "nearest_even": "nearest_even",
    "nearest_away": "nearest_away",
    "toward_zero": "toward_zero",
    "up": "toward_positive",
    "down": "toward_negative",
    "to_odd": "to_odd",
    "stochastic": "stochastic_a",
    "stochastic_b": "stochastic_b",
    "stochastic_c": "stochastic_c",
}
P3109 = [(k, p, signed, e) for k in (4, 6, 8) for signed in (True, False) for p in range(1, k) for e in (True, False)]
P3109 = [each for each in P3109 if p3109(*each).exponent_bits <= 10]


def oracle(name: str) -> ModuleType:
    """The module, or a skipped test."""
    return pytest.importorskip(name)


@pytest.mark.parametrize("name", EN_DTYPES)
def test_narrow_floats_equal_en_dtypes(name: str) -> None:
    dtype, fmt = getattr(oracle("en_dtypes"), EN_DTYPES[name]), formats.get(name)
    assert same(fmt.values(), fmt.all_codes().view(dtype).astype(np.float32).astype(np.float64))
    x = np.concatenate([EVERY_FP16, EVERY_BF16, around(fmt), million(fmt)])
    x = x[~np.isnan(x)]
    assert not differences(fmt.encode(x), x.astype(dtype).view(np.uint8), x)


def test_hif8_equals_en_dtypes() -> None:
    dtype, fmt = oracle("en_dtypes").hifloat8, formats.get("hif8")
    assert same(fmt.values(), fmt.all_codes().view(dtype).astype(np.float32).astype(np.float64))
    spread = formats.get("e5m2")  # its binades are those of HiF8, and a few more are added to them
    with np.errstate(invalid="ignore"):
        x = np.concatenate([EVERY_FP16, EVERY_BF16, around(fmt), million(spread)])
        expected = x.astype(dtype).view(np.uint8)
    assert not differences(fmt.encode(x, overflow="nonsaturating"), expected, x)


def softposit_codes(module: ModuleType, name: str, x: np.ndarray) -> np.ndarray:
    width = formats.get(name).bits
    if (fixed := SOFTPOSIT[name]) is not None:
        convert = getattr(module, f"convertDoubleToP{fixed}")
        return np.array([convert(each).v for each in x.tolist()])
    return np.array([module.convertDoubleToPX2(each, width).v >> (32 - width) for each in x.tolist()])


@pytest.mark.parametrize("name", SOFTPOSIT)
def test_posits_equal_softposit(name: str) -> None:
    module, fmt = oracle("softposit"), formats.get(name)
    x = np.concatenate([around(fmt), fmt.thresholds[1:], -fmt.thresholds[1:], [1e30, -1e-30]]).astype(np.float64)
    x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
    x = x if fmt.bits <= 8 else np.random.default_rng(1).choice(x, 40_000)
    assert not differences(fmt.encode(x), softposit_codes(module, name, x), x)
    values = fmt.values()
    codes = fmt.all_codes()[~np.isnan(values)]
    assert np.array_equal(softposit_codes(module, name, values[codes]), codes)


@pytest.mark.parametrize("name", BITSTRING)
def test_ocp_and_p3109_types_equal_bitstring(name: str) -> None:
    bits, fmt = oracle("bitstring").Bits, formats.get(name)
    for theirs, overflow in zip(BITSTRING[name], ("saturate", "nonsaturating"), strict=True):
        if theirs is None:
            continue
        codes = range(0, 2**fmt.bits, 1 if fmt.bits <= 8 else 7)
        values = np.array([getattr(bits(uint=code, length=fmt.bits), theirs) for code in codes])
        assert same(fmt.decode(np.array(codes)), values)
        x = wide(np.concatenate([around(fmt), EVERY_FP16[::17], EVERY_BF16[::17]]))
        x = np.random.default_rng(2).choice(x[~np.isnan(x)], 20_000)
        expected = np.array([bits(**{theirs: each}).uint for each in x.tolist()])
        actual = fmt.encode(x, overflow=overflow).astype(np.int64) & (2**fmt.bits - 1)
        assert not differences(actual, expected, x)


@pytest.mark.parametrize("mode", APYTYPES_MODES)
@pytest.mark.parametrize("name", IEEE)
def test_ieee_like_floats_equal_apytypes_in_every_mode(name: str, mode: str) -> None:
    module, fmt = oracle("apytypes"), formats.get(name)
    x = np.concatenate([around(fmt, np.float64), around(fmt)])
    x = x if len(x) < 200_000 else np.random.default_rng(4).choice(x, 200_000)
    array = module.APyFloatArray.from_float(x, 11, 52)
    quantization = getattr(module.QuantizationMode, APYTYPES_MODES[mode])
    cast = array.cast(fmt.exponent_bits, fmt.mantissa_bits, fmt.bias, quantization)
    codes = fmt.encode(x, mode, overflow="nonsaturating").astype(np.int64)
    expected = np.array(cast.to_bits())
    if mode == "to_odd":  # apytypes goes to infinity beyond the largest value, we stay: both are in use
        inside = np.abs(x) <= fmt.max
        codes, expected, x = codes[inside], expected[inside], x[inside]
    assert not differences(codes, expected, x)


def pychop_format(module: ModuleType, fmt: FloatFormat) -> Any:
    return module.P3109Format(fmt.bits, fmt.mantissa_bits + 1, fmt.signed, "extended" if fmt.has_inf else "finite")


@pytest.mark.parametrize("mode", PYCHOP_MODES)
def test_p3109_equals_pychop_in_every_mode(mode: str) -> None:
    module, rng = oracle("pychop"), np.random.default_rng(6)
    for fmt in (p3109(*parameters) for parameters in P3109):
        theirs = pychop_format(module, fmt)
        assert same(fmt.values(), module.p3109_decode(fmt.all_codes().astype(np.int64), theirs)), fmt.name
        x = np.concatenate([around(fmt, np.float64), around(fmt)])
        x = x if fmt.signed else x[~np.signbit(x)]
        bits = rng.integers(0, 2**8, x.shape) if "stochastic" in mode else None
        for saturate, overflow in ((True, "saturate"), (False, "nonsaturating")):
            if not saturate and not fmt.has_inf:
                continue
            options = {} if bits is None else {"srbits": bits, "srnumbits": 8}
            expected = module.p3109_quantize(x, theirs, rounding=PYCHOP_MODES[mode], saturate=saturate, **options)
            actual = fmt.round(x, mode, overflow=overflow, random_bits=bits, num_random_bits=8)
            assert not differences(actual, expected, x), (fmt.name, overflow)


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4"])
def test_blocks_equal_pychop(name: str) -> None:
    module = oracle("pychop")
    theirs = {"mxfp6_e2m3": "mxfp6_e2m3", "mxfp6_e3m2": "mxfp6_e3m2", "mxfp4": "mxfp4_e2m1"}.get(name, name)
    x = np.random.default_rng(7).standard_normal((200, 32)).astype(np.float32)
    x *= np.exp2(np.random.default_rng(8).integers(-20, 20, (200, 1))).astype(np.float32)
    expected = np.stack([np.asarray(module.mx_quantize(row.astype(np.float64), theirs)) for row in x])
    ours = quantize_reference(x, f"{name}:floor").dequantize()
    assert not differences(ours.ravel(), expected.ravel(), x.ravel())


def test_the_extra_names_every_oracle_that_is_used_here() -> None:
    assert importlib.import_module("importlib.metadata")
