"""`diff`: the differences between known implementations are those on record, counted and explained."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch

import planted_quantizers as planted
from narrowgauge.formats import get, parse, quantize_reference
from narrowgauge.numerics import DiffReport, diff, register_implementation
from narrowgauge.numerics.quantizers.differences import CAUSES
from narrowgauge.numerics.quantizers.implementations import implementation, implementation_names


def causes(report: DiffReport) -> dict[str, int]:
    return {group.cause: group.count for group in report.groups}


def example(report: DiffReport, cause: str):
    return next(group for group in report.groups if group.cause == cause)


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e3m4", "e2m3fn", "bf16", "fp16"])
def test_ml_dtypes_is_the_reference_without_saturation(name):
    report = diff("reference_nonsaturating", "ml_dtypes", name)
    assert set(causes(report)) <= {"NaN code", "NaN to a number"}
    assert report.inputs > 120_000
    assert report.what == "codes"


def test_torch_and_ml_dtypes_differ_in_the_nan_code_of_e5m2_alone():
    report = diff("torch", "ml_dtypes", "e5m2")
    assert causes(report) == {"NaN code": 2}
    assert (report.groups[0].a, report.groups[0].b) == ("0x7f (nan)", "0x7e (nan)")


def test_torch_and_ml_dtypes_differ_in_the_overflow_of_e4m3_since_torch_saturates():
    report = diff("torch", "ml_dtypes", "e4m3fn")
    saturates = bool(torch.tensor(1e4).to(torch.float8_e4m3fn).float() == 448)
    assert set(causes(report)) == ({"overflow", "infinity"} if saturates else set())
    if saturates:
        assert causes(report)["infinity"] == 2
        group = example(report, "overflow")
        # 464 itself is a tie to even and stays; the next float32 number overflows.
        assert group.x == float(np.nextafter(np.float32(464), np.float32(np.inf)))
        assert (group.a, group.b) == ("0x7e (448.0)", "0x7f (nan)")
        assert group.reason == "beyond 448.0"


def test_nan_becomes_minus_zero_in_e2m1():
    report = diff("reference", "ml_dtypes", "e2m1fn")
    assert causes(report) == {"NaN to a number": 1}
    assert (report.groups[0].a, report.groups[0].b) == ("0x0 (0.0)", "0x8 (-0.0)")


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (planted.ties_away, {"ties"}),
        (planted.subnormals_flushed, {"subnormal"}),
        (planted.zero_sign_lost, {"signed zero"}),
        (planted.nan_to_zero, {"NaN to a number"}),
        (planted.no_saturation, {"overflow", "infinity"}),
        (planted.infinity_to_nan, {"infinity"}),
        (planted.double_rounding_bfloat16, {"next to a tie (double rounding)", "subnormal"}),
        (planted.truncating, {"ties", "subnormal", "next to a tie (double rounding)", "other"}),
    ],
)
def test_differences_are_grouped_by_their_cause(fn, expected):
    report = diff(planted.saturating_cast, fn, "e4m3fn")
    assert set(causes(report)) == expected
    assert report.what == "values"
    for group in report.groups:
        x = np.array([[group.x]], dtype=np.float32)
        first, second = planted.saturating_cast(x), fn(x)
        assert not (first == second and np.signbit(first) == np.signbit(second))


def test_counts_are_those_of_distinct_inputs():
    report = diff(planted.saturating_cast, planted.zero_sign_lost, "e4m3fn")
    seen = []
    diff(lambda x: seen.append(x) or planted.saturating_cast(x), planted.saturating_cast, "e4m3fn")
    inputs = np.concatenate([x.reshape(-1) for x in seen])
    assert report.inputs == inputs.size == np.unique(inputs.view(np.uint32)).size
    small = (np.abs(inputs) <= 2.0**-10) & np.signbit(inputs)
    assert report.differences == int(np.count_nonzero(small))


def test_nan_signs_are_told_from_nan_codes():
    def negative(x):
        return np.where(np.isnan(x), np.uint8(0xFF), get("e4m3fn").encode(np.nan_to_num(x, posinf=1e9, neginf=-1e9)))

    report = diff("reference", negative, "e4m3fn")
    assert causes(report) == {"NaN sign": 1}


def test_schemes_are_compared_with_their_scales():
    def halved(x):
        q = quantize_reference(x, planted.ROW)
        return q.codes, q.scale * np.float32(0.5)

    report = diff("reference", halved, planted.ROW, budget=4096)
    assert report.what == "codes"
    assert causes(report).keys() >= {"scale"}
    assert set(causes(report)) <= {"scale", "infinity", "overflow", "subnormal"}
    assert diff("reference", planted.row_quantizer, planted.ROW, budget=64).what == "values"
    report = diff("reference", planted.scale_too_small, planted.ROW, budget=4096)
    assert causes(report).keys() >= {"scale"}
    assert diff("reference", "reference", "mxfp4", budget=4096).ok
    assert str(diff("reference", "reference", "mxfp4", budget=64)).startswith("reference and reference, mxfp4: 0 of")


def test_formats_schemes_and_names_mean_the_same():
    reports = [diff("reference", "ml_dtypes", scheme) for scheme in ("e4m3fn", get("e4m3fn"), "e4m3fn:static=1.0")]
    assert reports[0] == reports[1] == reports[2]
    assert diff("reference", "reference", get("mxfp8"), budget=64) == diff(
        "reference", "reference", parse("mxfp8"), budget=64
    )


def test_report_is_a_table_and_strict_json():
    report = diff("reference", "ml_dtypes", "e4m3fn")
    lines = report.table().splitlines()
    assert lines[1].split()[:3] == ["cause", "count", "example"]
    assert len(lines) == 2 + len(report.groups)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["differences"] == report.differences > 0
    assert [group["cause"] for group in content["groups"]] == [c for c in CAUSES if c in causes(report)]
    assert next(g for g in content["groups"] if g["cause"] == "infinity")["x"] == "inf"


def test_callers_register_implementations_by_name():
    build = lambda scheme: planted.saturating_cast  # noqa: E731
    register_implementation("test_planted", build)
    register_implementation("test_planted", build)
    assert "test_planted" in implementation_names()
    assert set(causes(diff("test_planted", "reference", "e4m3fn"))) == set()
    with pytest.raises(ValueError, match="already registered"):
        register_implementation("test_planted", lambda scheme: planted.ties_away)


@pytest.mark.parametrize(
    ("name", "scheme", "text"),
    [
        ("torsh", "e4m3fn", "got 'torsh', accepted: a callable, .*did you mean 'torch'"),
        ("torch", "e4m3fn/row", "torch casts, accepted: a format"),
        ("torch", "e3m4", "torch has no type for e3m4"),
        ("reference_nonsaturating", "mxfp8", "saturate; use 'reference'"),
    ],
)
def test_implementations_that_do_not_exist_are_refused(name, scheme, text):
    with pytest.raises(ValueError, match=text):
        diff(name, "reference", scheme)


def test_implementations_take_numpy_and_give_codes():
    x = np.array([[1.0, -0.0, 500.0]], dtype=np.float32)
    for name in ("reference", "torch", "ml_dtypes"):
        label, fn = implementation(name, parse("e5m2:static=1.0"))
        assert label == name
        assert np.array_equal(fn(x), x.astype(ml_dtypes.float8_e5m2).view(np.uint8))
