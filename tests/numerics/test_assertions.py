"""assert_close_to_format: right results of other orders of operations pass, everything else is named."""

import ml_dtypes
import numpy as np
import pytest
import torch

from narrowgauge.formats import get, quantize_reference
from narrowgauge.kernels import quantize
from narrowgauge.numerics import Distribution, assert_close_to_format, distribution, hard_cases

SCHEMES = (
    "e4m3fn", "e4m3fn/row", "e4m3fn/1x128", "e4m3fn/8x8:pow2", "e4m3fn:static=0.5", "e4m3fnuz/row:even", "e5m2/col",
    "int8/row", "int4/1x32", "uint8/row", "int16", "rf8", "rf8/row", "mxfp8", "mxfp4", "mxfp4:floor", "mxint8", "nvfp4",
    "nf4/row", "dynamic8", "bf16", "fp16/row", "binary8p1se", "e4m3fn/row+sr", "int8+sr", "rf8/row+sr", "nvfp4+sr",
)  # fmt: skip
FLOAT32 = np.float32


def failure(actual, reference, scheme="e4m3fn/row", **options):
    with pytest.raises(AssertionError) as caught:
        assert_close_to_format(actual, reference, scheme, **options)
    return str(caught.value)


@pytest.fixture
def x():
    return np.random.default_rng(7).standard_normal((4, 32)).astype(np.float32)


@pytest.mark.parametrize(("scheme", "seed"), [(s, None) for s in SCHEMES] + [(s, 3) for s in SCHEMES if "+sr" in s])
def test_the_definition_passes_in_every_form_on_every_hard_case(scheme, seed):
    for name, case in hard_cases().items():
        q = quantize_reference(case, scheme, seed=3)
        values = q.dequantize()
        with np.errstate(over="ignore", invalid="ignore"):
            forms = (q, (q.codes, q.scale, q.outer), values, values.astype(np.float32), values.astype(np.float16),
                     values.astype(ml_dtypes.bfloat16), torch.from_numpy(np.asarray(values)))  # fmt: skip
        for form in forms:
            assert_close_to_format(form, case, scheme, seed=seed, name=name)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "int8/8x8", "mxfp4", "nvfp4", "e5m2/1x128+sr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_kernels_pass(scheme, dtype):
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((13, 97))).to(dtype)
    q = quantize(x, scheme, seed=5)
    assert_close_to_format(q, x, scheme, seed=5)
    assert_close_to_format(q.dequantize(), x, scheme, seed=5)


def by_division(x):
    amax = np.abs(x).max(axis=1, keepdims=True)
    scale = np.where(amax == 0, FLOAT32(1), amax / FLOAT32(448))
    return (x / scale).clip(-448, 448), scale


def by_the_reciprocal_of_the_maximum(x):
    amax = np.abs(x).max(axis=1, keepdims=True)
    scale = np.where(amax == 0, FLOAT32(1), amax * FLOAT32(1 / 448))
    return (x * (FLOAT32(448) / np.where(amax == 0, FLOAT32(448), amax))).clip(-448, 448), scale


@pytest.mark.parametrize("scaled", [by_division, by_the_reciprocal_of_the_maximum])
def test_other_orders_of_the_same_operations_pass(scaled):
    rng = np.random.default_rng(0)
    for _ in range(20):
        for name in (Distribution.NORMAL, Distribution.STUDENT_T3, Distribution.LOG_UNIFORM):
            x = distribution(name, (13, 97), rng)
            y, scale = scaled(x)
            codes = y.astype(ml_dtypes.float8_e4m3fn)
            assert_close_to_format((codes, scale), x, "e4m3fn/row", name=name)
            assert_close_to_format(codes.astype(np.float32) * scale, x, "e4m3fn/row", name=name)


def test_another_order_may_take_the_neighbouring_block_scale():
    # amax / (6 · outer) of the second block is 1 + 1/16, halfway between two values of e4m3fn.
    x = np.zeros((1, 32), np.float32)
    x[0, 0], x[0, 16], x[0, 17] = 6 * 448, 6.375, 2.0
    outer = FLOAT32(1)
    for block_scale in (1.0, 1.125):
        scales = np.array([[448.0, block_scale]])
        elements = get("e2m1fn").round(x / np.repeat(scales, 16, axis=1))
        assert_close_to_format((elements * np.repeat(scales, 16, axis=1)).astype(np.float32), x, "nvfp4")
        codes = get("e2m1fn").encode(elements), get("e4m3fn").encode(scales), outer
        assert_close_to_format(codes, x, "nvfp4")
    elements = get("e2m1fn").round(x / np.repeat([[448.0, 1.25]], 16, axis=1))
    assert "1 of 2 scales are wrong; worst at group (0, 1): actual 1.25, expected 1 " in failure(
        (get("e2m1fn").encode(elements), get("e4m3fn").encode([[448.0, 1.25]]), outer), x, "nvfp4"
    )


def test_torch_float8_codes_are_read_as_bits(x):
    y, scale = by_division(x)
    codes = torch.from_numpy(y).to(torch.float8_e4m3fn)
    assert_close_to_format((codes, torch.from_numpy(scale)), x, "e4m3fn/row")
    assert_close_to_format((codes, torch.from_numpy(scale)), torch.from_numpy(x), "e4m3fn/row")


def test_failure_names_count_place_error_expectation_and_neighbours(x):
    values = quantize_reference(x, "e4m3fn:static=0.25").dequantize()
    x[1, 5], values[1, 5] = 1.03, 1.25  # steps of 1/32 there after scaling by 4: y = 4.12, values 4, 4.5, 5
    text = failure(values, x, "e4m3fn:static=0.25", name="mine")
    assert text == (
        "mine: 1 of 128 elements are not what rounding to e4m3fn:static=0.25 may give; worst at (1, 5): actual 1.25, "
        "reference 1.02999997, 1.76 ulp off, allowed 0.5; expected 1, neighbours 1 and 1.125, scale 0.25"
    )


def test_failure_names_the_worst_of_several(x):
    values = quantize_reference(x, "int8:static=0.0625").dequantize()
    values[0, 3] += 0.0625
    values[3, 1] -= 0.25
    text = failure(values, x, "int8:static=0.0625")
    assert text.startswith("2 of 128 elements")
    assert "worst at (3, 1)" in text


def test_what_is_near_and_yet_no_value_of_the_format_fails(x):
    text = failure(x, x)
    assert "0 ulp off, allowed 0.5; it is no value of the format; expected" in text
    assert "it is no value of the format" in failure(x, x, max_ulp=4)


@pytest.mark.parametrize(("name", "scale"), [("e4m3fn", 0.01), ("int8", 0.03), ("e2m1fn", 0.5), ("rf8", 4.0)])
def test_truncation_fails_and_is_within_one_ulp(x, name, scale):
    truncated = get(name).round(x / np.float64(FLOAT32(scale)), "toward_zero") * FLOAT32(scale)
    assert "elements are not what rounding to" in failure(truncated, x, f"{name}:static={scale}")
    assert_close_to_format(truncated, x, f"{name}:static={scale}", max_ulp=1)


def test_only_ties_within_reach_of_a_rounding_may_go_either_way():
    x = np.array([[448.0, 17.0, 17.001, 19.0]], np.float32)  # e4m3fn has 16, 18 and 20 there
    for tie in (16.0, 18.0):
        assert_close_to_format(np.array([[448.0, tie, 18.0, 20.0]]), x, "e4m3fn/row")
    assert "1 of 4 elements" in failure(np.array([[448.0, 16.0, 16.0, 20.0]]), x)


def test_values_beyond_the_range_saturate():
    x = np.array([1000.0, -1000.0, 3.0], np.float32)
    assert_close_to_format(np.array([448.0, -448.0, 3.0]), x, "e4m3fn:static=1")
    assert "expected 448" in failure(np.array([np.inf, -448.0, 3.0]), x, "e4m3fn:static=1")
    assert "actual nan" in failure(np.array([448.0, np.nan, 3.0]), x, "e4m3fn:static=1")


def test_a_group_with_a_nan_is_nan_throughout_and_no_other_group_is(x):
    x[2, 3] = np.nan
    values = quantize_reference(x, "e4m3fn/row").dequantize()
    assert_close_to_format(values, x, "e4m3fn/row")
    inside, outside = values.copy(), values.copy()
    inside[2, 0], outside[1, 0] = 0.5, np.nan
    text = failure(inside, x)
    assert "1 of 128" in text
    assert text.endswith("expected nan: its group holds a NaN or an infinity")
    assert "worst at (1, 0): actual nan" in failure(outside, x)


def test_a_float32_product_may_overflow_where_the_exact_one_does():
    x = np.array([np.finfo(np.float32).max], np.float32)
    assert_close_to_format(np.array([np.inf], np.float32), x, "e4m3fn:pow2")  # 256 · 2^120 = 2^128
    assert "1 of 1" in failure(np.array([-np.inf], np.float32), x, "e4m3fn:pow2")
    assert "1 of 1" in failure(np.array([np.inf], np.float64), x, "e4m3fn:pow2")


def test_scales_that_come_along_are_checked(x):
    q = quantize_reference(x, "e4m3fn/row")
    wrong = q.scale.copy()
    wrong[3] *= 1.01
    text = failure((q.codes, wrong), x, name="mine")
    assert text.startswith("mine: 1 of 4 scales are wrong; worst at group (3, 0): actual ")
    assert "x = value * scale" in text
    assert "4 of 4 scales" in failure((q.codes, 1 / q.scale), x)
    # One unit in the last place is within three roundings, of a power of two nothing is.
    assert_close_to_format((q.codes, np.nextafter(q.scale, FLOAT32(1))), x, "e4m3fn/row")
    power = quantize_reference(x, "e4m3fn/row:pow2")
    assert "scales are wrong" in failure((power.codes, np.nextafter(power.scale, FLOAT32(1))), x, "e4m3fn/row:pow2")


def test_scales_of_zero_groups_are_free():
    x = np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)
    q = quantize_reference(x, "e4m3fn/row")
    assert_close_to_format((q.codes, q.scale * FLOAT32([[1e-12], [1]])), x, "e4m3fn/row")


def test_stochastic_rounding_takes_either_neighbour_unless_the_seed_is_known(x):
    q = quantize_reference(x, "e4m3fn/row+sr", seed=4)
    assert_close_to_format(q, x, "e4m3fn/row+sr")
    assert_close_to_format(q, x, "e4m3fn/row+sr", seed=4)
    assert "allowed what seed 5 gives" in failure(q, x, "e4m3fn/row+sr", seed=5)
    assert "elements are not what" in failure(q, x, "e4m3fn/row")
    beyond = quantize_reference(x, "e4m3fn/row").dequantize()
    beyond[0, 0] *= 1.5
    text = failure(beyond, x, "e4m3fn/row+sr")
    assert "allowed less than 1" in text
    assert " or " in text.rpartition("expected")[2]


def test_max_ulp_widens_or_narrows_what_is_allowed():
    x = np.array([17.0, 17.9, 448.0], np.float32)  # 16, 18: 0.5 and 0.05 of a step off
    values = np.array([18.0, 18.0, 448.0])
    assert_close_to_format(values, x, "e4m3fn:static=1", max_ulp=0.5)
    assert "allowed 0.1; expected none: no value is that near" in failure(values, x, "e4m3fn:static=1", max_ulp=0.1)
    assert_close_to_format(np.array([18.0, 16.0, 416.0]), x, "e4m3fn:static=1", max_ulp=1)
    assert "worst at (1,)" in failure(np.array([18.0, 14.0, 448.0]), x, "e4m3fn:static=1", max_ulp=1)


def test_rounding_of_the_output_dtype_is_allowed_for_and_no_more(x):
    values = torch.from_numpy(quantize_reference(x, "e4m3fn/row").dequantize())
    assert_close_to_format(values.bfloat16(), x, "e4m3fn/row")
    # The same numbers, no longer marked as rounded.
    assert "it is no value of the format" in failure(values.bfloat16().double(), x)


@pytest.mark.parametrize("scheme", ["e4m3fn:static=1+ftz", "e4m3fn:static=1+sr+ftz"])
def test_flushed_subnormals_are_zero_and_only_they(scheme):
    smallest = get("e4m3fn").smallest_normal
    x = np.array([0.5 * smallest, 0.999 * smallest, smallest, -3 * smallest / 8], np.float32)
    flushed = np.array([0.0, smallest if "sr" not in scheme else 0.0, smallest, 0.0])
    assert_close_to_format(flushed, x, scheme)
    assert "1 of 4 elements" in failure(flushed + np.array([0.5 * smallest, 0, 0, 0]), x, scheme)


def test_shapes_that_differ_are_the_results_fault(x):
    q = quantize_reference(x, "e4m3fn/row")
    assert failure(q.dequantize()[:2], x, name="q").startswith("q: values: got shape (2, 32), accepted: ")
    assert failure((q.codes[:2], q.scale), x).startswith("codes: got shape (2, 32), accepted: ")
    assert failure((q.codes, q.scale[:2]), x).startswith("scale: got shape (2, 1), accepted: one for each of (4, 1)")


@pytest.mark.parametrize(
    ("actual", "options", "error", "text"),
    [
        (np.ones(2), {"max_ulp": -1.0}, ValueError, "max_ulp: got -1.0"),
        (np.ones(2), {"max_ulp": float("nan")}, ValueError, "max_ulp: got nan"),
        ("text", {}, TypeError, "got str, accepted: dequantised values"),
        ((1, 2, 3, 4), {}, TypeError, "got tuple, accepted: dequantised values"),
        (np.ones(2, complex), {}, TypeError, "got dtype complex128"),
        (np.ones(2, np.int8), {}, TypeError, "got bare codes"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(actual, options, error, text):
    with pytest.raises(error, match=text):
        assert_close_to_format(actual, np.ones(2), "e4m3fn", **options)
