"""`check_quantizer`: right implementations of every kind pass, options mean what they say, reports explain."""

import json
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch

import planted_quantizers as planted
from narrowgauge.formats import Rounding, get, parse, quantize_reference
from narrowgauge.kernels import quantize
from narrowgauge.numerics import assert_quantizer, check_quantizer
from narrowgauge.numerics.quantizers.check import property_names
from narrowgauge.numerics.quantizers.terms import Contract, Terms

FEW = 1 << 12
CAST = planted.CAST
SCHEMES = ["e4m3fn", "e4m3fn/row", "e5m2/col", "int8/1x128", "int8/32x32:pow2", "mxfp4", "mxfp8:floor", "nvfp4"]
SCHEMES += [
    "nf4/1x64",
    "rf8/row",
    "e4m3fn:static=0.25",
    "int4/row:mse",
    "uint8/row",
    "e4m3fn/row+ftz",
    "e2m3fn/1x16:ceil",
]
STOCHASTIC = ["e4m3fn/row+sr", "mxfp4+sr", "int8:static=0.5+sr"]
ML_DTYPES = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4", "float8_e4m3fnuz", "float8_e5m2fnuz"]
ML_DTYPES += ["float8_e4m3b11fnuz", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"]


def codes(scheme):
    return lambda x, seed=None: quantize_reference(x, scheme, seed)


def values(scheme):
    def quantizer(x, seed=None):
        with np.errstate(over="ignore"):
            return quantize_reference(x, scheme, seed).dequantize().astype(np.float32)

    return quantizer


# --- what is right passes ---


@pytest.mark.parametrize("contract", list(Contract))
@pytest.mark.parametrize("make", [codes, values])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_definition_passes(scheme, make, contract):
    check_quantizer(make(scheme), scheme, contract=contract, budget=FEW).raise_if_failed()


@pytest.mark.parametrize("contract", list(Contract))
@pytest.mark.parametrize("scheme", STOCHASTIC)
def test_the_stochastic_definition_passes(scheme, contract):
    assert_quantizer(codes(scheme), scheme, contract=contract)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_casts_of_ml_dtypes_pass_without_saturation(name):
    dtype = getattr(ml_dtypes, name)
    assert_quantizer(
        lambda x: x.astype(dtype),
        f"{name.split('_')[1]}:static=1.0",
        overflow="nonsaturating",
        dtypes=("float32", "float16"),
    )


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(
    ("dtype", "scheme", "overflow"),
    [
        (torch.float8_e5m2, "e5m2", "nonsaturating"),
        (torch.float8_e4m3fnuz, "e4m3fnuz", "nonsaturating"),
        (torch.float8_e5m2fnuz, "e5m2fnuz", "nonsaturating"),
        (torch.bfloat16, "bf16", "nonsaturating"),
        (torch.float16, "fp16", "nonsaturating"),
    ],
)
def test_casts_of_torch_pass(dtype, scheme, overflow, back):
    def cast(x):
        return x.to(dtype).float() if back else x.to(dtype)

    options = {"overflow": overflow, "as_tensor": True, "dtypes": ("float32", "bfloat16", "float16")}
    assert_quantizer(cast, f"{scheme}:static=1.0", **options)


def test_torchs_cast_to_e4m3_passes_under_the_overflow_rule_of_its_version():
    # It saturates since 2.13 and gave NaN before.
    saturates = bool(torch.tensor(1e4).to(torch.float8_e4m3fn).float() == 448)
    rules = ("saturate", "nonsaturating") if saturates else ("nonsaturating", "saturate")
    cast = {"fn": lambda x: x.to(torch.float8_e4m3fn), "scheme": CAST, "as_tensor": True}
    assert check_quantizer(**cast, overflow=rules[0]).ok
    (kind,) = check_quantizer(**cast, overflow=rules[1], budget=FEW).kinds
    assert "saturat" in kind


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp8", "nvfp4", "int8/32x32", "e4m3fn/row+sr"])
def test_the_kernels_pass_bit_by_bit(scheme):
    def kernel(x, *seed):
        return quantize(x, scheme, *seed)

    assert_quantizer(kernel, scheme, contract="narrowgauge", as_tensor=True, dtypes=("float32", "bfloat16"), budget=FEW)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp8", "nvfp4", "e4m3fn/col"])
def test_results_rounded_to_bfloat16_pass(scheme):
    assert_quantizer(lambda x: quantize(x, scheme).dequantize(torch.bfloat16), scheme, as_tensor=True, budget=FEW)


def test_integers_held_in_floats_are_codes():
    def quantizer(x):
        quantized, scale = planted.int8_row(x)
        return quantized.astype(np.float32), scale

    assert_quantizer(quantizer, planted.INT8, budget=FEW)


def test_a_bare_float_array_of_codes_needs_to_be_announced():
    def quantizer(x):
        return np.clip(np.rint(np.nan_to_num(x / np.float32(0.5))), -127, 127).astype(np.float32)

    assert_quantizer(quantizer, "int8:static=0.5", mode="codes", budget=FEW)
    assert not check_quantizer(quantizer, "int8:static=0.5", budget=FEW).ok


def test_block_scales_may_come_as_floats_or_as_codes():
    def floats(x):
        q = quantize_reference(x, "mxfp8")
        return q.codes, parse("mxfp8").format.scales(q.scale)

    def own_type(x):
        q = quantize_reference(x, "mxfp8")
        return q.codes, q.scale.view(ml_dtypes.float8_e8m0fnu)

    for quantizer in (floats, own_type):
        assert_quantizer(quantizer, "mxfp8", contract="narrowgauge", budget=FEW)


# --- the contracts ---


def test_dividing_by_the_scale_is_right_for_one_contract_and_not_for_the_other():
    assert check_quantizer(planted.row_quantizer, planted.ROW).ok
    report = check_quantizer(planted.row_quantizer, planted.ROW, contract="narrowgauge")
    assert not report.ok
    assert any("expected code" in failure.message for failure in report.failures)


def test_a_tie_is_strict_where_the_scale_is_a_power_of_two():
    def away(x):
        q = quantize_reference(x, "mxfp8")
        factors = np.repeat(parse("mxfp8").format.scales(q.scale).astype(np.float64), 32, axis=1)[:, : x.shape[1]]
        with np.errstate(invalid="ignore", over="ignore"):
            y = np.nan_to_num(x / factors)
        return get("e4m3fn").encode(y, Rounding.NEAREST_AWAY), q.scale

    assert check_quantizer(away, "mxfp8", budget=FEW).kinds == ("ties away from zero instead of to even",)


def test_nan_rules():
    zero = {"nan": "zero", "budget": FEW}
    assert check_quantizer(planted.nan_to_zero, CAST, **zero).ok
    assert not check_quantizer(planted.nan_to_max, CAST, **zero).ok
    assert check_quantizer(planted.nan_to_max, CAST, nan="max", budget=FEW).ok
    assert check_quantizer(planted.nan_to_max, CAST, nan="any", budget=FEW).ok
    assert not check_quantizer(planted.saturating_cast, CAST, **zero).ok


def test_nan_must_not_leave_its_group():
    def leaks(x):
        result = planted.row_quantizer(x)
        return (result[0], np.full_like(result[1], np.nan)) if np.isnan(x).any() else result

    report = check_quantizer(leaks, planted.ROW, budget=FEW)
    assert [failure.check for failure in report.failures] == ["NaN and infinities"]
    assert "expected scale" in report.failures[0].message


def test_smallest_amax_excuses_guards_against_zero():
    assert not check_quantizer(planted.amax_floor, planted.ROW, budget=FEW).ok
    assert check_quantizer(planted.amax_floor, planted.ROW, budget=FEW, smallest_amax=1e-11).ok


def test_random_bits_say_how_fine_probabilities_have_to_be():
    assert not check_quantizer(planted.sr_eight_bits, planted.SR).ok
    assert check_quantizer(planted.sr_eight_bits, planted.SR, random_bits=8).ok


# --- the report ---


def test_report_lists_what_ran_and_is_strict_json():
    report = check_quantizer(planted.no_saturation, CAST, budget=FEW)
    assert report.checks == property_names(Terms(parse(CAST)))
    assert json.dumps(report.to_dict(), allow_nan=False)
    assert "no_saturation as e4m3fn:static=1.0 (nearest)" in report.table()
    with pytest.raises(AssertionError, match="looks like: missing saturation"):
        report.raise_if_failed()
    with pytest.raises(AssertionError, match="missing saturation"):
        assert_quantizer(planted.no_saturation, CAST, budget=FEW)


def test_same_call_gives_the_same_report():
    reports = [check_quantizer(planted.column_scales, planted.ROW, budget=FEW).to_dict() for _ in range(2)]
    assert reports[0] == reports[1]


def test_skipped_properties_do_not_run():
    names = property_names(Terms(parse(planted.ROW)))
    report = check_quantizer(planted.row_quantizer, planted.ROW, skip=set(names) - {"midpoints"})
    assert report.checks == ("midpoints",)
    assert report.measurements["calls"] == 1


def test_functions_that_raise_are_reported_with_the_input():
    def refuses(x):
        if x.shape[1] % 32:
            raise RuntimeError("columns must divide by 32")
        return planted.saturating_cast(x)

    report = check_quantizer(refuses, CAST, budget=FEW)
    assert report.kinds == ("the function fails on this input", "zeros at the end change other elements")
    assert "raised RuntimeError: columns must divide by 32; input [[" in report.failures[0].message


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (lambda x: x[:1], "values: got shape"),
        (lambda x: None, "got NoneType, accepted: dequantised values"),
        (lambda x: (x.astype(np.int8), np.ones(3, np.float32)), "scale: got shape \\(3,\\)"),
        (lambda x: x.astype(np.int8), "got bare codes for int8/row"),
        (lambda x: x > 0, "got dtype bool"),
    ],
)
def test_results_that_cannot_be_read_are_failures_that_say_why(fn, text):
    report = check_quantizer(fn, "int8/row", budget=FEW)
    assert "returned what cannot be read" in report.failures[0].message
    with pytest.raises(AssertionError, match=text):
        report.raise_if_failed()


def test_warnings_of_the_function_are_its_own():
    def warns(x):
        warnings.warn("slow path", stacklevel=1)
        return planted.saturating_cast(x)

    with pytest.warns(UserWarning, match="slow path"):
        assert check_quantizer(warns, CAST, budget=64, skip=()).ok


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"fn": 3}, TypeError, "fn: got int"),
        ({"mode": "code"}, ValueError, "mode: got 'code'"),
        ({"contract": "exact"}, ValueError, "contract: got 'exact', accepted: narrowgauge, nearest"),
        ({"overflow": "wrap"}, ValueError, "overflow: got 'wrap'"),
        ({"contract": "narrowgauge", "overflow": "nonsaturating"}, ValueError, "accepted under this contract"),
        ({"nan": "max."}, ValueError, "did you mean 'max'"),
        ({"dtypes": "float32"}, ValueError, "dtypes: got 'float32', accepted: a sequence"),
        ({"dtypes": ("int8",)}, ValueError, "dtypes"),
        ({"dtypes": ("bfloat16",)}, ValueError, "as_tensor=True"),
        ({"budget": 3}, ValueError, "budget: got 3"),
        ({"skip": "midpoints"}, ValueError, "skip: got 'midpoints', accepted: a collection"),
        ({"skip": ["nonsense"]}, ValueError, "skip: got 'nonsense'"),
        ({"scheme": "e4m3"}, None, ""),
        ({"scheme": "e4m4"}, ValueError, "nearest"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(options, error, text):
    arguments = {"fn": planted.row_quantizer, "scheme": planted.ROW, "budget": 64} | options
    fn = arguments.pop("fn")
    if error is None:
        assert not check_quantizer(fn, **arguments).ok
        return
    with pytest.raises(error, match=text):
        check_quantizer(fn, **arguments)
