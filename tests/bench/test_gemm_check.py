"""A right product passes with room to spare, and every way of being wrong is seen."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.gemm_check import (
    HOPPER_PARTIAL,
    Rounding,
    check_product,
    hopper_partial,
    relative_error,
)
from narrowgauge.bench.gemm_inputs import Operands
from narrowgauge.bench.poison import WrongResult

M, N, K = 48, 40, 512
GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.randn((M, K), generator=GENERATOR), torch.randn((N, K), generator=GENERATOR)
OPERANDS = Operands(lambda: A, lambda: B)
RIGHT = A @ B.t()
PLAIN = Rounding()


def wrong(y: torch.Tensor, message: str, rounding: Rounding = PLAIN) -> None:
    with pytest.raises(WrongResult, match=message):
        check_product(y, OPERANDS, K, rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_product_is_far_inside(dtype: torch.dtype) -> None:
    rounding = Rounding()
    error = check_product(RIGHT.to(dtype), OPERANDS, K, rounding)
    assert error < 0.6 * rounding.limit(K, dtype)


def test_a_single_element_is_found() -> None:
    for value in (float("nan"), float("inf"), 0.0, float(RIGHT[7, 11]) + 0.2):
        y = RIGHT.clone()
        y[7, 11] = value
        wrong(y, r"1 of 1920 elements are out of bound; at \(7, 11\)")


def test_a_dropped_column_of_k_is_found_in_bfloat16() -> None:
    wrong((A[:, :-1] @ B[:, :-1].t()).bfloat16(), "elements are out of bound|errs by")


def test_a_dropped_block_is_found_among_sums_of_14_bits() -> None:
    rounding = Rounding(partial=hopper_partial(K, 128))
    wrong((A[:, :-32] @ B[:, :-32].t()).bfloat16(), "elements are out of bound|row .* errs by", rounding)


def test_one_row_or_column_is_found_by_its_root_mean_square() -> None:
    limit = Rounding(quantization=0.02)
    for index, kind in ((slice(3, 4), "row 3"), ((slice(None), slice(9, 10)), "column 9")):
        y = RIGHT.clone()
        y[index] += 0.07 * K**0.5  # too little for any one element
        wrong(y, f"{kind} errs by 0.0[67]", limit)


def test_rows_are_counted_through_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narrowgauge.bench.gemm_check.SLAB", N * 5)
    y = RIGHT.clone()
    y[33, 2] = 100.0
    wrong(y, r"1 of 200 elements are out of bound; at \(33, 2\)")
    assert check_product(RIGHT, OPERANDS, K, Rounding()) > 0


def test_quantised_results_are_allowed_their_error_and_no_more() -> None:
    noise = torch.randn(M, N, generator=GENERATOR) * K**0.5
    rounding = Rounding(quantization=0.03)
    assert check_product(RIGHT + 0.03 * noise, OPERANDS, K, rounding) == pytest.approx(0.03, rel=0.1)
    wrong(RIGHT + 0.075 * noise, "errs by", rounding)


def test_integers_are_exact() -> None:
    a, b = (torch.randint(-127, 128, (size, 32), dtype=torch.int8) for size in (4, 6))
    operands = Operands(lambda: a, lambda: b)
    y = a.int() @ b.int().t()
    assert check_product(y, operands, 32, Rounding(exact=True)) == 0.0
    y[1, 1] += 1
    with pytest.raises(WrongResult, match=r"1 of 24 elements are out of bound; at \(1, 1\)"):
        check_product(y, operands, 32, Rounding(exact=True))


@pytest.mark.parametrize("k", [1, 2])
def test_short_sums_pass(k: int) -> None:
    a, b = torch.randn(1, k), torch.randn(3, k)
    assert check_product((a @ b.t()).bfloat16(), Operands(lambda: a, lambda: b), k, Rounding()) < 0.01


def test_zero_operands() -> None:
    zero = torch.zeros(3, 8)
    assert check_product(torch.zeros(3, 3), Operands(lambda: zero, lambda: zero), 8, Rounding()) == 0.0
    with pytest.raises(WrongResult):
        check_product(torch.ones(3, 3), Operands(lambda: zero, lambda: zero), 8, Rounding())


def test_partial_sums_of_hopper() -> None:
    assert hopper_partial(4096, 128) == 4 * HOPPER_PARTIAL
    assert hopper_partial(4096, None) == 128 * HOPPER_PARTIAL
    assert hopper_partial(1, 128) == HOPPER_PARTIAL


def test_relative_error_of_products() -> None:
    half = Operands(lambda: 0.5 * A, lambda: B)
    assert relative_error(half, OPERANDS) == pytest.approx(0.5)
    assert relative_error(half, Operands(lambda: 0 * A, lambda: B)) == 0.0
