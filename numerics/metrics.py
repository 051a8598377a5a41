"""Scalar measures of the distance between a quantized tensor and its reference.

With `r` the reference, `a` the actual values, `e = a - r` and ‖·‖ the Euclidean norm over all elements:

    nmse = (‖e‖ / ‖r‖)²     relative_rms = ‖e‖ / ‖r‖     sqnr_db = -20 log10(‖e‖ / ‖r‖)
    gain = <r, a> / <r, r>  bias = mean(e) / rms(r)      cosine_similarity = <r, a> / (‖r‖ ‖a‖)
    max_relative_error = max |e_i| / |r_i|

Every function takes two tensors or arrays of one shape (any dtype of real numbers, any device), computes in
float64 without overflow or underflow of the squares, and returns a Python float. All are invariant under a
common factor.

Special cases, the same for all of them:

* Equal operands score as perfect even where the formula says 0/0: an empty pair, or two zero tensors.
* A zero reference with a non-zero `actual`: error ratios are infinite (SQNR -inf), `cosine_similarity` is 0,
  `gain` is NaN, and `bias` is the infinity of mean(e)'s sign, NaN if that mean is 0.
* NaN and infinities are not left out: they go through the formulas by the rules of IEEE arithmetic, so that a
  NaN in either operand gives NaN (and so does an infinity in the reference), and an infinity in `actual`
  alone gives an infinite error ratio, and NaN for `gain` and `cosine_similarity`.

TypeError for operands that are not real numbers, ValueError for different shapes.
"""

from __future__ import annotations

import math

import numpy as np

from narrowgauge.numerics._arrays import FloatArray, Operand, float64_pair


def _norm(x: FloatArray) -> float:
    """‖x‖ in float64; scaled by max|x|, so that squares neither overflow nor vanish."""
    largest = float(np.max(np.abs(x), initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(float(np.sum(np.square(x / largest))))


def _ratio(numerator: float, denominator: float) -> float:
    """IEEE division (Python's own raises for a zero denominator)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(np.float64(numerator) / np.float64(denominator))


def relative_rms(actual: Operand, reference: Operand) -> float:
    """‖e‖ / ‖r‖: 0 is exact, 1 is as bad as returning zeros."""
    a, r = float64_pair(actual, reference, "reference")
    with np.errstate(invalid="ignore", over="ignore"):
        error = _norm(a - r)
    return 0.0 if error == 0.0 else _ratio(error, _norm(r))


def nmse(actual: Operand, reference: Operand) -> float:
    """Normalised mean square error, (‖e‖ / ‖r‖)²."""
    ratio = relative_rms(actual, reference)
    return ratio * ratio


def sqnr_db(actual: Operand, reference: Operand) -> float:
    """Signal to quantization noise ratio in decibels, 10 log10(Σr² / Σe²); +inf for an exact copy."""
    ratio = relative_rms(actual, reference)
    if ratio == 0.0:
        return math.inf
    return -20.0 * math.log10(ratio)


def max_relative_error(actual: Operand, reference: Operand) -> float:
    """The largest |e_i| / |r_i|; an element with r_i = 0 counts 0 if it is exact and infinity otherwise."""
    a, r = float64_pair(actual, reference, "reference")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.abs(a - r)
        # Only an exact zero is special: inf - inf is NaN and stays one.
        relative = np.where(error == 0.0, 0.0, error / np.abs(r))
    return float(np.max(relative, initial=0.0))


def _cosine(a: FloatArray, r: FloatArray, a_norm: float, r_norm: float) -> float:
    """<r/‖r‖, a/‖a‖>, NaN where a norm is not finite; both norms are non-zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sum((a / a_norm) * (r / r_norm)))


def cosine_similarity(actual: Operand, reference: Operand) -> float:
    """<r, a> / (‖r‖ ‖a‖), in [-1, 1]; 0 if exactly one operand is zero, 1 if both are."""
    a, r = float64_pair(actual, reference, "reference")
    a_norm, r_norm = _norm(a), _norm(r)
    if math.isnan(a_norm) or math.isnan(r_norm):
        return math.nan
    if a_norm == 0.0 or r_norm == 0.0:
        return 1.0 if a_norm == r_norm else 0.0
    return _cosine(a, r, a_norm, r_norm)


def gain(actual: Operand, reference: Operand) -> float:
    """<r, a> / <r, r>: 1 is unbiased, below 1 the quantizer shrinks what it is given."""
    a, r = float64_pair(actual, reference, "reference")
    a_norm, r_norm = _norm(a), _norm(r)
    if r_norm == 0.0:
        return 1.0 if a_norm == 0.0 else math.nan
    if a_norm == 0.0:
        return 0.0 * r_norm  # NaN for an infinite reference
    return _cosine(a, r, a_norm, r_norm) * _ratio(a_norm, r_norm)


def bias(actual: Operand, reference: Operand) -> float:
    """mean(e) / rms(r): the signed average error in units of the reference's rms."""
    a, r = float64_pair(actual, reference, "reference")
    with np.errstate(invalid="ignore", over="ignore"):
        error = a - r
        largest = float(np.max(np.abs(error), initial=0.0))
        if largest == 0.0:
            return 0.0
        mean = float(np.mean(error / largest)) * largest if math.isfinite(largest) else float(np.mean(error))
    return _ratio(mean, _norm(r) / math.sqrt(r.size))
