"""Metrics: closed forms, reference values of the literature, and every stated special case."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from narrowgauge.numerics import (
    bias,
    cosine_similarity,
    gain,
    max_relative_error,
    nmse,
    relative_rms,
    sqnr_db,
)

METRICS = [bias, cosine_similarity, gain, max_relative_error, nmse, relative_rms, sqnr_db]
PERFECT = {
    bias: 0.0,
    cosine_similarity: 1.0,
    gain: 1.0,
    max_relative_error: 0.0,
    nmse: 0.0,
    relative_rms: 0.0,
    sqnr_db: math.inf,
}
metric = pytest.mark.parametrize("metric", METRICS, ids=lambda f: f.__name__)

REFERENCE = np.array([[3.0, -4.0], [0.0, 12.0]])  # norm 13
ACTUAL = np.array([[3.0, -4.0], [0.0, 13.0]])  # error (0, 0, 0, 1)


def test_metrics_equal_their_closed_forms():
    assert relative_rms(ACTUAL, REFERENCE) == pytest.approx(1 / 13, rel=1e-15)
    assert nmse(ACTUAL, REFERENCE) == pytest.approx(1 / 169, rel=1e-15)
    assert sqnr_db(ACTUAL, REFERENCE) == pytest.approx(10 * math.log10(169), rel=1e-15)
    assert max_relative_error(ACTUAL, REFERENCE) == pytest.approx(1 / 12, rel=1e-15)
    assert gain(ACTUAL, REFERENCE) == pytest.approx(181 / 169, rel=1e-15)
    assert bias(ACTUAL, REFERENCE) == pytest.approx(0.25 / 6.5, rel=1e-15)
    assert cosine_similarity(ACTUAL, REFERENCE) == pytest.approx(181 / (13 * math.sqrt(194)), rel=1e-15)


@metric
def test_metrics_are_not_symmetric_in_their_operands_except_the_cosine(metric):
    forward, backward = metric(ACTUAL, REFERENCE), metric(REFERENCE, ACTUAL)
    assert (forward == pytest.approx(backward, rel=1e-12)) == (metric is cosine_similarity)


@pytest.mark.parametrize(
    ("dtype", "decibels"),
    [
        (np.float16, 73.6),
        (ml_dtypes.bfloat16, 55.6),
        (ml_dtypes.float8_e4m3fn, 31.6),
        (ml_dtypes.float8_e5m2, 25.6),
    ],
)
def test_sqnr_of_a_gaussian_matches_the_published_value_of_each_format(dtype, decibels):
    x = np.random.default_rng(0).standard_normal(400_000)
    scale = float(ml_dtypes.finfo(dtype).max) / np.abs(x).max()
    quantized = (x * scale).astype(dtype).astype(np.float64) / scale
    assert sqnr_db(quantized, x) == pytest.approx(decibels, abs=0.15)


@metric
def test_an_exact_copy_is_perfect(metric):
    assert metric(REFERENCE, REFERENCE.copy()) == pytest.approx(PERFECT[metric], abs=1e-15)


@metric
@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (4, 5)])
def test_two_zero_or_empty_operands_are_perfect(metric, shape):
    assert metric(np.zeros(shape), torch.zeros(shape)) == PERFECT[metric]


def test_a_zero_reference_gives_the_stated_values():
    zero, one = np.zeros(3), np.array([1.0, 0.0, 0.0])
    assert relative_rms(one, zero) == nmse(one, zero) == max_relative_error(one, zero) == math.inf
    assert sqnr_db(one, zero) == -math.inf
    assert cosine_similarity(one, zero) == 0.0
    assert math.isnan(gain(one, zero))
    assert bias(one, zero) == math.inf
    assert bias(-one, zero) == -math.inf
    assert math.isnan(bias(np.array([1.0, -1.0]), np.zeros(2)))


def test_a_zero_actual_loses_all_signal():
    zero, one = np.zeros(2), np.array([1.0, -2.0])
    assert relative_rms(zero, one) == max_relative_error(zero, one) == 1.0
    assert gain(zero, one) == cosine_similarity(zero, one) == sqnr_db(zero, one) == 0.0


@metric
@pytest.mark.parametrize("position", ["actual", "reference", "both"])
def test_nan_propagates(metric, position):
    a, r = ACTUAL.copy(), REFERENCE.copy()
    if position != "reference":
        a[0, 0] = np.nan
    if position != "actual":
        r[0, 0] = np.nan
    assert math.isnan(metric(a, r))


@metric
def test_nan_propagates_from_an_otherwise_zero_operand(metric):
    assert math.isnan(metric(np.array([np.nan, 0.0]), np.zeros(2)))
    assert math.isnan(metric(np.zeros(2), np.array([np.nan, 0.0])))


@metric
def test_an_infinity_in_the_reference_gives_nan(metric):
    r = np.array([np.inf, 1.0])
    assert math.isnan(metric(np.array([np.inf, 1.0]), r))
    assert math.isnan(metric(np.array([448.0, 1.0]), r))


def test_an_infinity_in_the_actual_alone_gives_infinite_error():
    a, r = np.array([np.inf, 1.0]), np.array([500.0, 1.0])
    assert relative_rms(a, r) == nmse(a, r) == max_relative_error(a, r) == bias(a, r) == math.inf
    assert sqnr_db(a, r) == -math.inf
    assert math.isnan(gain(a, r))
    assert math.isnan(cosine_similarity(a, r))


@metric
@pytest.mark.parametrize("exponent", [-1000, -140, 140, 1000])
def test_metrics_do_not_change_under_a_common_power_of_two(metric, exponent):
    scaled = metric(np.ldexp(ACTUAL, exponent), np.ldexp(REFERENCE, exponent))
    assert scaled == pytest.approx(metric(ACTUAL, REFERENCE), rel=1e-14)


def test_sqnr_resolves_errors_far_below_the_range_of_squares():
    assert sqnr_db(np.array([1.0 + 1e-200]), np.array([1.0])) == math.inf
    assert sqnr_db(np.array([2.0]), np.array([1e-200])) == pytest.approx(-4000 - 20 * math.log10(2), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_tensors_of_any_float_type_count_as_their_values(dtype):
    a, r = torch.tensor(ACTUAL).to(dtype), torch.tensor(REFERENCE, requires_grad=True).T
    assert sqnr_db(a.T, r) == sqnr_db(a.double().numpy(), REFERENCE)


@metric
def test_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"actual: got shape \(2, 1\), accepted: the shape of reference, \(2, 2\)"):
        metric(np.ones((2, 1)), np.ones((2, 2)))


@metric
@pytest.mark.parametrize("wrong", [np.array([1j]), np.array(["1"]), torch.tensor([1j]), torch.tensor([True])])
def test_operands_that_are_not_real_numbers_are_refused(metric, wrong):
    with pytest.raises(TypeError, match=r"actual: got dtype .*accepted: real numbers"):
        metric(wrong, np.ones(1))
