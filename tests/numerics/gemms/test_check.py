"""check_gemm: correct products pass in every form, and what cannot be meant is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from narrowgauge.formats import Quantized, parse
from narrowgauge.kernels.gemm import scaled_gemm_torch, scaled_gemm_triton
from narrowgauge.numerics import check_gemm
from narrowgauge.numerics.gemms.cases import CASE_CHECKS, CasePlan, gemm_cases
from narrowgauge.numerics.gemms.check import CALL_CHECKS

PAIRS = (
    ("e4m3fn/1x128", "e4m3fn/128x128"), ("e4m3fn/row", "e5m2"), ("int8/row", "int8"), ("int8/1x32", "int8/32x32"),
    ("mxfp8_e4m3", "mxfp4"), ("nvfp4", "nvfp4"), ("rf8/row", "rf8"), ("e4m3fn/row+sr", "e4m3fn/row+sr"),
)  # fmt: skip


def scaled(implementation: Callable[..., Any], a: str, b: str, out: torch.dtype = torch.float32) -> Callable[..., Any]:
    """scaled_gemm under two schemes, as `check_gemm` calls it."""

    def gemm(x: Any, x_scale: Any, y: Any, y_scale: Any, bias: Any = None) -> Any:
        return implementation(x, x_scale, y, y_scale, a, b, bias, out)

    return gemm


def by_definition(a: str, b: str) -> Callable[..., Any]:
    """decode, scale, multiply in numpy."""

    def values(codes: Any, scale: Any, scheme: str) -> Any:
        return Quantized(codes, scale, np.ones((), np.float32), parse(scheme)).dequantize().astype(np.float32)

    return lambda x, x_scale, y, y_scale: values(x, x_scale, a) @ values(y, y_scale, b).T


@pytest.mark.parametrize("pair", PAIRS, ids="×".join)
def test_scaled_gemm_passes(pair: tuple[str, str]) -> None:
    check_gemm(scaled(scaled_gemm_torch, *pair), *pair, as_tensor=True).raise_if_failed()


@pytest.mark.parametrize("out", ["bfloat16", "float16"])
def test_scaled_gemm_with_bias_and_narrow_output_passes(out: str) -> None:
    gemm = scaled(scaled_gemm_torch, *PAIRS[0], getattr(torch, out))
    check_gemm(gemm, *PAIRS[0], as_tensor=True, out_dtype=out, bias=True).raise_if_failed()


@pytest.mark.parametrize("pair", [PAIRS[0], ("int8/row", "int8/row")], ids="×".join)
def test_scaled_gemm_in_tritons_interpreter_passes(pair: tuple[str, str]) -> None:
    report = check_gemm(
        scaled(scaled_gemm_triton, *pair), *pair, as_tensor=True, shapes=((1, 1, 1), (17, 3, 141)), long_k=300,
        skip=("positive sums", "outliers", "subnormals"),
    )  # fmt: skip
    report.raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS[:6], ids="×".join)
def test_scaled_gemm_in_tritons_interpreter_passes_every_case(pair: tuple[str, str]) -> None:
    check_gemm(scaled(scaled_gemm_triton, *pair), *pair, as_tensor=True).raise_if_failed()


def test_exact_integer_sums_pass_the_tighter_bound() -> None:
    pair = ("int8/row", "int8/row")
    report = check_gemm(scaled(scaled_gemm_torch, *pair), *pair, as_tensor=True, accumulate="int32")
    report.raise_if_failed()


def test_numpy_arrays_of_codes_are_the_default() -> None:
    pair = ("e4m3fn/1x128", "mxfp8_e4m3")
    check_gemm(by_definition(*pair), *pair).raise_if_failed()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {}),
        ("float16", {}),
        ("bfloat16", {"flushes_subnormals": True}),  # oneDNN's bfloat16 products treat subnormal sums as zero
    ],
)
def test_plain_products_of_torch_pass(dtype: str, options: dict[str, Any]) -> None:
    report = check_gemm(lambda a, b: a @ b.T, dtype, as_tensor=True, out_dtype=dtype, **options)
    report.raise_if_failed()


@pytest.mark.parametrize("transposed", ["nt", "nn", "tn", "tt"])
def test_operands_lie_as_asked(transposed: str) -> None:
    def gemm(a: Any, b: Any) -> Any:
        return (a.T if transposed[0] == "t" else a) @ (b.T if transposed[1] == "t" else b)

    check_gemm(gemm, "fp32", transposed=transposed).raise_if_failed()


def test_values_of_quantised_operands_may_be_asked_for() -> None:
    report = check_gemm(lambda a, b: a @ b.T, "nvfp4", "e4m3fn/row", operands="values")
    report.raise_if_failed()


def test_a_stated_low_accumulator_is_accepted() -> None:
    def chunked(a: Any, b: Any) -> Any:
        total = np.zeros((a.shape[0], b.shape[0]), np.float16)
        for start in range(0, a.shape[1], 64):
            total = (total + (a[:, start : start + 64] @ b[:, start : start + 64].T)).astype(np.float16)
        return total.astype(np.float32)

    assert check_gemm(chunked, "fp16", accumulate="float16", chunk=None).ok
    assert not check_gemm(chunked, "fp16").ok


def test_kernels_with_restricted_shapes_are_checked_on_those() -> None:
    seen = set()

    def gemm(a: Any, b: Any) -> Any:
        seen.add((a.shape[0] % 16, b.shape[0] % 8, a.shape[1] % 32))
        return a @ b.T

    check_gemm(gemm, "fp32", multiples=(16, 8, 32)).raise_if_failed()
    assert seen == {(0, 0, 0)}


def test_the_report_names_its_checks_and_measures_the_distance_to_the_bounds() -> None:
    report = check_gemm(lambda a, b: a @ b.T, "fp32", skip=("zeros",), subject="matmul")
    assert report.checks == (*CALL_CHECKS, *(name for name in CASE_CHECKS if name != "zeros"))
    assert report.subject == "matmul (float32 x float32 -> float32)"
    assert 0.0 < report.measurements["error / bound"] < 1.0
    assert 0.0 < report.measurements["omega / (sqrt(n) u)"] < 6.0


def test_equal_plans_make_equal_cases() -> None:
    plan = CasePlan(parse("e4m3fn/row"), parse("int8/row"), shapes=((3, 2, 5),), long_k=17)
    first, second = list(gemm_cases(plan)), list(gemm_cases(plan))
    assert [case.name for case in first] == [case.name for case in second]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.a.values, two.a.values)
    assert {case.check for case in first} == set(CASE_CHECKS)


def test_an_exception_is_a_failure_that_names_it() -> None:
    def refuses(a: Any, b: Any) -> Any:
        if a.shape[1] % 16:
            raise RuntimeError("K must be a multiple of 16")
        return a @ b.T

    report = check_gemm(refuses, "fp32")
    assert report.kinds == ("raised RuntimeError",)
    assert "multiple of 16" in report.failures[0].message


def test_wrong_shapes_and_dtypes_are_named() -> None:
    assert "wrong shape" in check_gemm(lambda a, b: b @ a.T, "fp32").kinds
    assert check_gemm(lambda a, b: (a @ b.T).astype(np.float64), "fp32").kinds == ("wrong dtype",)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"a_scheme": "e4m3/nope"}, "granularity"),
        ({"operands": "bits"}, "operands: got 'bits'"),
        ({"transposed": "xx"}, "transposed: got 'xx'"),
        ({"accumulate": "float8"}, "accumulate: got 'float8'"),
        ({"accumulate": 2.0}, "accumulate: got 2.0"),
        ({"out_dtype": "int8"}, "out_dtype: got 'int8'"),
        ({"chunk": 0}, "chunk: got 0"),
        ({"skip": ("nothing",)}, r"skip: got \['nothing'\]"),
        ({"device": "cpu"}, "device: got 'cpu' without as_tensor"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], text: str) -> None:
    arguments: dict[str, Any] = {"a_scheme": "e4m3fn/row", **options}
    with pytest.raises(ValueError, match=text):
        check_gemm(lambda *_: None, **arguments)
    with pytest.raises(TypeError, match="a_scheme: got int"):
        check_gemm(lambda *_: None, 8)  # type: ignore[arg-type]
