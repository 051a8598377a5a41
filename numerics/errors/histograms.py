"""Histograms that one pass over a tensor fills: per binade, per code, error against value; and distances between
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics._arrays import FloatArray

Counts = NDArray[np.int64]

SIGNED_BINADES = 4096
"""Sign and exponent field of a float64: one bin for every binade of either sign; 0 and 2048 hold the zeros (and what
lies below 2^-1022), 2047 and 4095 infinities and NaN."""
SMOOTHING = 1e-12
"""Added to every occupied bin as a share of the total, so that a bin that is empty on one side alone stays finite."""
VALUE_BINS, ERROR_BINS = 48, 33
MOST_CODE_BINS = 1024


@dataclass(frozen=True)
class Histograms:
    """What the figure of an `ErrorReport` shows; plain numbers.

    first_binade: exponent of the first entry of the per-binade tuples. reference, actual: how many magnitudes lie in
    each binade. underflowed, clipped: of the reference's, how many became zero or lay beyond the format. relative_rms:
    root mean square of |error| / |value| in each binade of the reference, NaN where it is empty.
    code_values, code_counts: value of each code in order and how often it is used (adjacent codes pooled above 1024);
    empty without a scheme. value_error: counts [error bins][value bins] of a sample, values from -value_limit to
    value_limit (which all but a thousandth are within; the rest counts in the outermost bins), errors from -error_limit
    to error_limit.
    """

    first_binade: int
    reference: tuple[int, ...]
    actual: tuple[int, ...]
    underflowed: tuple[int, ...]
    clipped: tuple[int, ...]
    relative_rms: tuple[float, ...]
    code_values: tuple[float, ...]
    code_counts: tuple[int, ...]
    value_limit: float
    error_limit: float
    value_error: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Fields as plain lists and numbers."""
        content = asdict(self)
        return {key: _plain(value) for key, value in content.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Histograms:
        """The inverse of `to_dict`."""
        return cls(**{key: _frozen(value) for key, value in content.items()})


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def signed_binades(x: FloatArray) -> NDArray[np.int64]:
    """Bin of every element: the top twelve bits of its float64, [x.size]."""
    bits = np.ascontiguousarray(x).reshape(-1).view(np.uint64)
    return (bits >> np.uint64(52)).astype(np.int64)


def magnitude_counts(signed: Counts) -> Counts:
    """Both signs of per-binade counts added up: [2048], entry e + 1023 for the binade of 2^e."""
    return signed[:2048] + signed[2048:]


def kl_divergence(p: Counts, q: Counts) -> float:
    """KL(p ‖ q) in nats of two histograms over the same bins, after adding `SMOOTHING` of the total to every bin that
    either occupies. 0 for two empty ones; infinity if exactly one is."""
    used = (p > 0) | (q > 0)
    if not used.any():
        return 0.0
    if not p.any() or not q.any():
        return float("inf")
    first, second = (h[used] / h.sum() + SMOOTHING for h in (p, q))
    first, second = first / first.sum(), second / second.sum()
    return max(0.0, float(np.sum(first * np.log(first / second))))


def finite_signed(counts: Counts) -> Counts:
    """Per-binade counts of finite numbers with both zeros in one bin."""
    merged = counts.copy()
    merged[0] += merged[2048]
    merged[[2047, 2048, 4095]] = 0
    return merged


def entropy_bits(counts: Counts) -> float:
    """Shannon entropy of a histogram in bits."""
    total = counts.sum()
    share = counts[counts > 0] / max(int(total), 1)
    return max(0.0, float(-np.sum(share * np.log2(share))))


def pooled(values: FloatArray, counts: Counts) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Values in ascending order with their counts; neighbours pooled so that at most `MOST_CODE_BINS` remain."""
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    width = -(-len(values) // MOST_CODE_BINS)
    starts = np.arange(0, len(values), max(width, 1))
    if not len(starts):
        return (), ()
    return tuple(values[starts].tolist()), tuple(np.add.reduceat(counts, starts).tolist())


def value_error_counts(
    value: FloatArray, error: FloatArray, value_limit: float, error_limit: float
) -> tuple[tuple[int, ...], ...]:
    """Two-dimensional histogram [ERROR_BINS][VALUE_BINS] of a sample; what lies outside counts in the outermost
    bins."""
    counts = np.zeros(ERROR_BINS * VALUE_BINS, dtype=np.int64)
    if value.size and value_limit > 0:
        column = _bin(value, value_limit, VALUE_BINS)
        row = _bin(error, error_limit, ERROR_BINS) if error_limit > 0 else np.full(value.shape, ERROR_BINS // 2)
        counts = np.bincount(row * VALUE_BINS + column, minlength=counts.size)
    return tuple(tuple(line) for line in counts.reshape(ERROR_BINS, VALUE_BINS).tolist())


def _bin(x: FloatArray, limit: float, bins: int) -> NDArray[np.int64]:
    return np.clip(np.floor((x / limit + 1.0) * (bins / 2)), 0, bins - 1).astype(np.int64)
