"""Every planted GEMM fault is found, and the report names its kind."""

from __future__ import annotations

from typing import Any

import pytest

import planted_gemms
from narrowgauge.numerics import check_gemm

PLANTED = planted_gemms.planted()
QUICK = {"shapes": ((1, 1, 1), (67, 1, 33), (48, 48, 48), (37, 131, 300)), "long_k": 4099}


def name_of(planted: Any) -> str:
    return f"{type(planted.gemm).__name__}-{planted.schemes[0]}"


@pytest.mark.parametrize("planted", PLANTED, ids=name_of)
def test_a_planted_fault_is_found_and_named(planted: Any) -> None:
    report = check_gemm(planted.gemm, *planted.schemes, **{**QUICK, **planted.options})
    assert report.kinds == (planted.kind,), report.table()


@pytest.mark.parametrize(
    ("schemes", "options"),
    [
        (("e4m3fn/1x128", "e4m3fn/128x128"), {}),
        (("e4m3fn/row", "e5m2"), {"bias": True}),
        (("mxfp8_e4m3", "mxfp4"), {}),
        (("int8/row", "int8/row"), {}),
    ],
)
def test_the_same_gemm_without_fault_passes(schemes: tuple[str, str], options: dict[str, Any]) -> None:
    check_gemm(planted_gemms.Gemm(*schemes), *schemes, **options).raise_if_failed()


def test_the_integer_gemm_without_fault_passes() -> None:
    gemm = planted_gemms.IntegerGemm("int8/row", "int8/row")
    check_gemm(gemm, "int8/row", accumulate="int32").raise_if_failed()


def test_tf32_operands_are_named() -> None:
    from narrowgauge.numerics.statistics import round_significand

    def tf32(a: Any, b: Any) -> Any:
        return (round_significand(a, 11) @ round_significand(b, 11).T).astype("float32")

    assert check_gemm(tf32, "fp32").kinds == ("operands rounded to tf32 or float16",)


def test_a_failure_says_where_what_was_got_and_what_is_right() -> None:
    planted = next(p for p in PLANTED if p.kind == "k tail dropped")
    failure = check_gemm(planted.gemm, *planted.schemes).failures[0]
    for text in ("worst at", "got", "expected", "x the bound", "does not count"):
        assert text in failure.message
    assert set(failure.example) == {"case", "m", "n", "k", "at", "actual", "expected"}
