"""The assertions fail where they should, and say where; the bound holds and is not slack."""

import re

import ml_dtypes
import numpy as np
import pytest
import torch

from narrowgauge.numerics import assert_bitwise, assert_within, gamma, gemm_bound

NAN_A, NAN_B = np.array([0x7FC00000, 0x7FC00001], dtype=np.uint32).view(np.float32)


def failure(function, *args, **kwargs):
    with pytest.raises(AssertionError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def test_bitwise_accepts_equal_codes_of_torch_and_numpy():
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert_bitwise(torch.from_numpy(codes.copy()).T, codes.T)
    assert_bitwise(np.zeros((0, 3), np.int8), torch.zeros((0, 3), dtype=torch.int8))
    assert_bitwise(torch.tensor([True, False]), np.array([True, False]))


def test_bitwise_names_the_count_the_first_index_and_both_values():
    expected = np.zeros((4, 32), dtype=np.uint8)
    actual = expected.copy()
    actual[1, 5], actual[3, 0] = 0x7F, 1
    assert failure(assert_bitwise, actual, expected, name="codes") == (
        "codes: 2 of 128 elements differ; first at (1, 5): actual 0x7f (127), expected 0x00 (0) [uint8]"
    )


def test_bitwise_shows_negative_integers_in_twos_complement():
    text = failure(assert_bitwise, np.array([-1], np.int16), torch.tensor([2], dtype=torch.int16))
    assert "first at (0,): actual 0xffff (-1), expected 0x0002 (2) [int16]" in text


def test_bitwise_sees_one_ulp_and_the_sign_of_zero():
    one = np.array(1.0, np.float32)
    assert "0x3f800001 (1.0000001192092896), expected 0x3f800000 (1.0)" in failure(
        assert_bitwise, np.nextafter(one, np.float32(2)), one
    )
    assert "0x80000000 (-0.0), expected 0x00000000 (0.0)" in failure(
        assert_bitwise, torch.tensor(-0.0), torch.tensor(0.0)
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (ml_dtypes.bfloat16, torch.bfloat16),
        (ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn),
        (ml_dtypes.float8_e5m2, torch.float8_e5m2),
        (np.float16, torch.float16),
        (np.float64, torch.float64),
    ],
)
def test_bitwise_compares_narrow_floats_of_numpy_and_torch(theirs, ours):
    values = np.array([[0.5, -1.5], [3.0, 0.0]])
    assert_bitwise(torch.tensor(values).to(ours), values.astype(theirs))
    negative_zero = np.array([[0.5, -1.5], [3.0, -0.0]]).astype(theirs)
    text = failure(assert_bitwise, torch.tensor(values).to(ours), negative_zero)
    assert text.startswith("1 of 4 elements differ; first at (1, 1): actual 0x0")
    assert text.endswith(f"expected 0x80{'00' * (negative_zero.itemsize - 1)} (-0.0) [{np.dtype(theirs).name}]")


def test_bitwise_treats_nan_payloads_as_different_unless_asked():
    a, b = np.array([1.0, NAN_A], np.float32), np.array([1.0, NAN_B], np.float32)
    assert_bitwise(a, a.copy())
    assert "first at (1,): actual 0x7fc00000 (nan), expected 0x7fc00001 (nan)" in failure(assert_bitwise, a, b)
    assert_bitwise(a, b, nan_equal=True)
    assert "1 of 2" in failure(assert_bitwise, a, np.array([1.0, 2.0], np.float32), nan_equal=True)


def test_bitwise_refuses_another_shape_or_dtype():
    assert "actual has shape (2,), expected (1, 2)" in failure(assert_bitwise, np.ones(2), np.ones((1, 2)))
    text = failure(assert_bitwise, np.ones(2, np.uint8), torch.ones(2, dtype=torch.int8), name="c")
    assert text == "c: actual has dtype uint8, expected int8"


@pytest.mark.parametrize("wrong", [np.ones(1, complex), np.array(["a"]), torch.ones(1, dtype=torch.complex64)])
def test_bitwise_refuses_what_has_no_code(wrong):
    with pytest.raises(TypeError, match=r"expected: got dtype .*accepted: integers, booleans"):
        assert_bitwise(np.ones(1), wrong)


def test_within_accepts_the_bound_itself_and_nothing_beyond():
    expected = np.array([1.0, 2.0])
    assert_within(expected + np.array([0.5, 0.0]), expected, 0.5)
    assert_within(torch.tensor([1.5, 2.0]), expected, np.array([0.5, 0.0]))
    assert_within(np.zeros((0, 4)), np.zeros((0, 4)), 0.0)
    assert_within(np.array(1.0), torch.tensor(1.0), 0.0)
    assert "1 of 2" in failure(assert_within, expected + np.array([0.5000001, 0.0]), expected, 0.5)


def test_within_names_the_worst_element_in_units_of_its_bound():
    actual, expected = np.array([[1.0, 10.0], [2.0, 3.5]]), np.array([[0.0, 0.0], [2.0, 3.0]])
    bound = np.array([[1.0, 5.0], [0.1, 0.1]])
    assert failure(assert_within, actual, expected, bound, name="out") == (
        "out: 2 of 4 elements are out of bound; worst at (1, 1): actual 3.5, expected 3.0, error 0.5 = 5 x bound 0.1"
    )


def test_within_puts_nan_and_unbounded_errors_first():
    expected = np.zeros(3)
    assert "worst at (2,): actual nan" in failure(assert_within, np.array([9.0, 0.0, np.nan]), expected, 1.0)
    text = failure(assert_within, np.array([9.0, 1e-9, 0.0]), expected, np.array([1.0, 0.0, 0.0]))
    assert "2 of 3" in text
    assert "worst at (1,)" in text


def test_within_matches_nan_only_if_asked_and_infinities_always():
    special = np.array([np.nan, np.inf, -np.inf])
    assert "1 of 3" in failure(assert_within, special, special, 0.0)
    assert_within(special, special, 0.0, nan_equal=True)
    assert "1 of 1" in failure(assert_within, np.array([np.inf]), np.array([-np.inf]), 1e300)
    assert "1 of 1" in failure(assert_within, np.array([np.nan]), np.array([1.0]), np.inf, nan_equal=True)


@pytest.mark.parametrize("bound", [-1e-9, np.nan, np.array([1.0, -2.0])])
def test_within_refuses_a_bound_that_is_none(bound):
    with pytest.raises(ValueError, match=r"bound: got a value of (-|nan).*accepted: numbers >= 0"):
        assert_within(np.ones(2), np.ones(2), bound)


def test_within_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=re.escape("bound: got shape (3,), accepted: one that broadcasts to (2,)")):
        assert_within(np.ones(2), np.ones(2), np.ones(3))
    assert "actual has shape (2,), expected (2, 1)" in failure(assert_within, np.ones(2), np.ones((2, 1)), 1.0)


def test_gamma_is_highams():
    assert gamma(0) == 0.0
    assert gamma(1) == pytest.approx(2.0**-24 / (1 - 2.0**-24), rel=1e-15)
    assert gamma(100, 2.0**-8) == pytest.approx((100 / 256) / (156 / 256), rel=1e-15)


@pytest.mark.parametrize("n", [-1, 2**24, 2**30])
def test_gamma_refuses_counts_without_a_bound(n):
    with pytest.raises(ValueError, match=f"n: got {n}"):
        gamma(n)


def sequential(a, b, dtype):
    total = np.zeros((a.shape[0], b.shape[1]), dtype)
    for k in range(a.shape[1]):
        total = total + a[:, k, None] * b[None, k, :]
    return total


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gemm_bound_holds_for_a_sequential_sum_and_is_not_slack(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (4, 500)).astype(dtype), rng.uniform(0, 1, (500, 6)).astype(dtype)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = gemm_bound(500, np.abs(a.astype(np.float64)) @ np.abs(b), unit_roundoff=np.finfo(dtype).eps / 2)
    actual = sequential(a, b, dtype)
    assert_within(actual, exact, bound)
    # One ulp of every product is well within the bound; an error of one whole product in the sum is outside.
    assert np.all(bound < 1.1 * gamma(500, np.finfo(dtype).eps / 2) * exact)
    if dtype is np.float32:
        failure(assert_within, sequential(a[:, 1:], b[1:], dtype), exact, bound)


def test_gemm_bound_counts_chunks_scales_and_the_output():
    u, size = 2.0**-24, np.array([[2.0]])
    assert gemm_bound(4096, size, chunk=64)[0, 0] == pytest.approx(2 * 128 * u / (1 - 128 * u), rel=1e-12)
    assert gemm_bound(16, size, chunk=64)[0, 0] == gemm_bound(16, size)[0, 0]
    assert gemm_bound(10, size, extra_roundings=2)[0, 0] == gemm_bound(12, size)[0, 0]
    assert gemm_bound(0, size, out_unit_roundoff=2.0**-8)[0, 0] == 2.0**-7
    g = gamma(10)
    assert gemm_bound(10, torch.tensor([2.0]), out_unit_roundoff=2.0**-8)[0] == pytest.approx(
        2 * ((1 + g) * (1 + 2.0**-8) - 1), rel=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"k": -1}, "k: got -1"),
        ({"k": 1, "chunk": 0}, "chunk: got 0"),
        ({"k": 2**24}, "n: got 16777216"),
        ({"k": 1, "magnitude": -np.ones(1)}, "magnitude: got a value of -1.0"),
    ],
)
def test_gemm_bound_refuses_nonsense(arguments, text):
    with pytest.raises(ValueError, match=text):
        gemm_bound(**({"magnitude": np.ones(1)} | arguments))
