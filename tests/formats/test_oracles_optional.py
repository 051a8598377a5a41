"""Against the oracles of the extra `oracles`, each skipped where it is not installed: agreement.

FP4 and FP6 by en-dtypes, the OCP and P3109 types by bitstring, IEEE-like floats of any width in eight rounding modes
by apytypes, P3109 in nine and MX blocks by pychop. HiF8 (en-dtypes) and posits (SoftPosit) are compared where they are
tested, in `test_hif8.py` and `test_posit.py`.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.formats import FloatFormat, p3109, quantize_reference
from oracles import EVERY_BF16, EVERY_FP16, around, differences, million, same, wide

EN_DTYPES = {"e1m2": "float4_e1m2", "e2m1fn": "float4_e2m1", "e2m3fn": "float6_e2m3", "e3m2fn": "float6_e3m2"}
BITSTRING = {
    "e4m3fn": ("e4m3mxfp_saturate", "e4m3mxfp_overflow"),
    "e5m2": ("e5m2mxfp_saturate", "e5m2mxfp_overflow"),
    "e3m2fn": ("e3m2mxfp", None),
    "e2m3fn": ("e2m3mxfp", None),
    "e2m1fn": ("e2m1mxfp", None),
    "int8f6_full": ("mxint", None),
    "binary8p3se": (None, "p3binary"),
    "binary8p4se": (None, "p4binary"),
}
IEEE = ["e5m2", "e4m3", "e3m4", "e5m6", "fp16", "bf16", "tf32", "e6m9b31in511", "e2m3b1in7"]
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library says about itself while it is loaded
        return pytest.importorskip(name)


@pytest.mark.parametrize("name", EN_DTYPES)
def test_narrow_floats_equal_en_dtypes(name: str) -> None:
    dtype, fmt = getattr(oracle("en_dtypes"), EN_DTYPES[name]), formats.get(name)
    assert same(fmt.values(), fmt.all_codes().view(dtype).astype(np.float32).astype(np.float64))
    x = np.concatenate([EVERY_FP16, EVERY_BF16, around(fmt), million(fmt)])
    x = x[~np.isnan(x)]
    assert not differences(fmt.encode(x), x.astype(dtype).view(np.uint8), x)


@pytest.mark.parametrize("name", BITSTRING)
def test_ocp_and_p3109_types_equal_bitstring(name: str) -> None:
    bits, fmt = oracle("bitstring").Bits, formats.get(name)
    for theirs, overflow in zip(BITSTRING[name], ("saturate", "nonsaturating"), strict=True):
        if theirs is None:
            continue
        values = np.array([getattr(bits(uint=code, length=fmt.bits), theirs) for code in range(2**fmt.bits)])
        assert same(fmt.values(), values)
        x = wide(np.concatenate([around(fmt), EVERY_FP16[::17], EVERY_BF16[::17]]))
        x = np.random.default_rng(2).choice(x[~np.isnan(x)], 20_000)
        expected = np.array([bits(**{theirs: each}).uint for each in x.tolist()])
        # Values, not codes: bitstring has one NaN, with a sign.
        assert not differences(fmt.round(x, overflow=overflow), fmt.decode(expected), x)


def test_bf16_codes_are_those_of_bitstring() -> None:
    """Its rounding to them is a contradiction, and tested as one."""
    bits, fmt = oracle("bitstring").Bits, formats.get("bf16")
    values = np.array([bits(uint=code, length=16).bfloat for code in range(2**16)])
    assert same(fmt.values(), values)


def test_powers_of_two_are_those_of_bitstring() -> None:
    bits, fmt = oracle("bitstring").Bits, formats.get("e8m0fnu")
    assert same(fmt.values(), np.array([bits(uint=code, length=8).e8m0mxfp for code in range(256)]))


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
            if mode == "to_odd" and not saturate:  # where pychop goes to infinity
                inside = np.abs(x) <= fmt.max
                actual, expected, x = actual[inside], expected[inside], x[inside]
            assert not differences(actual, expected, x), (fmt.name, overflow)


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4"])
def test_blocks_equal_pychop(name: str) -> None:
    module = oracle("pychop")
    theirs = {"mxfp6_e2m3": "mxfp6_e2m3", "mxfp6_e3m2": "mxfp6_e3m2", "mxfp4": "mxfp4_e2m1"}.get(name, name)
    x = np.random.default_rng(7).standard_normal((200, 32)).astype(np.float32)
    x *= np.exp2(np.random.default_rng(8).integers(-20, 20, (200, 1))).astype(np.float32)
    expected = np.stack([np.asarray(module.mx_quantize(row.astype(np.float64), theirs)) for row in x])
    ours = quantize_reference(x, f"{name}:floor").dequantize()
    assert not differences(ours.ravel() + 0.0, expected.ravel() + 0.0, x.ravel())  # pychop has no -0


@pytest.mark.parametrize("rule", ["floor", "rceil", "ceil", "even"])
def test_blocks_equal_torchao_under_every_scale_rule(rule: str) -> None:
    to_mx = oracle("torchao.prototype.mx_formats.mx_tensor").to_mx
    mode = getattr(oracle("torchao.prototype.mx_formats.config").ScaleCalculationMode, rule.upper())
    rng = np.random.default_rng(10)
    x = (rng.standard_normal((2000, 32)) * np.exp2(rng.uniform(-40, 40, (2000, 1)))).astype(np.float32)
    x[0], x[1], x[2, 5] = 0.0, np.exp2(np.arange(-16.0, 16.0)), np.nan
    x[3] = np.nextafter(np.float32(8), np.float32(0))
    elements = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp8_e5m2": torch.float8_e5m2, "mxfp4": torch.float4_e2m1fn_x2,
                "mxfp6_e2m3": "fp6_e2m3", "mxfp6_e3m2": "fp6_e3m2"}  # fmt: skip
    for name, element in elements.items():
        scale, codes = to_mx(torch.from_numpy(x), element, 32, mode)
        q = quantize_reference(x, f"{name}:{rule}")
        assert np.array_equal(q.scale.ravel(), scale.view(torch.uint8).numpy().ravel()), name
        codes = codes.view(torch.uint8).numpy()
        if name == "mxfp4":
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(x.shape)
        rest = np.arange(2000) != 2  # of a block with a NaN only the scale counts
        assert np.array_equal(q.codes[rest], codes[rest]), name


@pytest.mark.parametrize(("name", "theirs"), [("nf4", "nf4"), ("bnb_fp4", "fp4")])
def test_four_bit_tables_equal_bitsandbytes(name: str, theirs: str) -> None:
    functional, fmt = oracle("bitsandbytes.functional"), formats.get(name)
    table = functional.get_4bit_type(theirs, device="cpu").numpy()
    assert np.array_equal(fmt.values().astype(np.float32), table)
    x = np.random.default_rng(11).standard_normal((256, 64)).astype(np.float32)
    packed, state = functional.quantize_4bit(torch.from_numpy(x), blocksize=64, quant_type=theirs)
    codes = np.stack([packed.numpy().ravel() >> 4, packed.numpy().ravel() & 15], axis=-1).reshape(x.shape)
    q = quantize_reference(x, f"{name}/1x64")
    # bitsandbytes gives what rounds to zero from below the code of -0.
    assert np.array_equal(fmt.decode(q.codes), fmt.decode(codes) + 0.0)
    assert np.array_equal(q.scale.ravel(), state.absmax.numpy())


@pytest.mark.parametrize(("name", "signed"), [("dynamic8", True), ("udynamic8", False)])
def test_dynamic_maps_are_within_two_units_of_bitsandbytes(name: str, signed: bool) -> None:
    """It builds them with a float32 `linspace`, which leaves some values a unit or two beside the rule's."""
    table = oracle("bitsandbytes.functional").create_dynamic_map(signed).numpy()
    ours = np.sort(formats.get(name).values()).astype(np.float32)
    assert (np.abs(ours - table) <= 2 * np.spacing(np.abs(table))).all()
