"""`compare`: from two tensors to an `ErrorReport`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import FloatFormat, Format, Scheme, parse
from narrowgauge.formats.tiles import rows_cols
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.errors.histograms import (
    Histograms,
    entropy_bits,
    finite_signed,
    kl_divergence,
    magnitude_counts,
    pooled,
    value_error_counts,
)
from narrowgauge.numerics.errors.report import ErrorReport
from narrowgauge.numerics.errors.sums import Sides, Sums, chunked_factors, sum_errors
from narrowgauge.numerics.quantizers.grid import levels
from narrowgauge.numerics.quantizers.read import Reading, native_array, parts_of, read, read_factors

DECIBELS_PER_BIT = 20.0 * math.log10(2.0)


def compare(
    actual: Any,
    reference: Any,
    *,
    scheme: Scheme | str | None = None,
    codes: Any = None,
    scale: Any = None,
    outer: Any = None,
) -> ErrorReport:
    """The error of `actual` against `reference`, in float64, with every figure that `ErrorReport` describes.

    actual: tensor or array of real numbers, of the reference's shape; an object with codes and scale
    (`QuantizedTensor`, `formats.Quantized`; its `scheme` is taken if none is given); or None: the values that `codes`
    and `scale` stand for, and without those what `formats.quantize_reference` makes of the reference under the
    scheme. reference: tensor or array of real numbers.

    scheme: adds ULP errors, groups, codes. codes, scale, outer: as the quantizer returned them. Missing scales are
    those that the scheme's rule gives for the reference; missing codes the nearest ones to `actual` at these scales.

    ValueError for different shapes, for codes or scales of other shapes, and for a stochastic scheme without anything
    that it rounded; TypeError for what are not real numbers.
    """
    original = native_array(reference, "reference")
    shape = original.shape
    parts = parts_of(actual)
    if parts is not None:
        codes, scale, outer = parts
        scheme = scheme if scheme is not None else getattr(actual, "scheme", None)
        actual = None
    spec = None if scheme is None else parse(scheme)
    if spec is None and (codes is not None or scale is not None or actual is None):
        raise ValueError("scheme: got None, accepted: the scheme of the codes and scales, or values without either")
    if actual is not None:
        actual = native_array(actual, "actual")
        if actual.shape != shape:
            raise ValueError(f"actual: got shape {actual.shape}, accepted: the shape of reference, {shape}")
    sides = _sides(original, actual, spec, codes, scale, outer)
    return _report(sum_errors(sides), sides)


def _sides(
    reference: NDArray[Any], actual: NDArray[Any] | None, scheme: Scheme | None, codes: Any, scale: Any, outer: Any
) -> Sides:
    shape = rows_cols(reference.shape)
    if reference.dtype.kind in "iu":
        reference = reference.astype(np.float64)
    matrix = reference.reshape(shape)
    values = None if actual is None else actual.reshape(shape)
    if scheme is None:
        return Sides(matrix, values, None, None, None)
    reading: Reading | None = None
    if codes is not None and scale is not None:
        reading = read((codes, scale, outer), scheme, reference.shape)
        values = reading.values if values is None else values
    elif codes is not None and values is None:
        raise ValueError("scale: got codes without their scale, accepted: both, or neither")
    elif values is None and scheme.stochastic:
        raise ValueError(f"actual: got None for {scheme}, accepted: the result, because a seed belongs to rounding it")
    if reading is not None and reading.factors is not None:
        return Sides(matrix, values, scheme, reading.codes, reading.factors)
    factors = chunked_factors(matrix, scheme) if scale is None else read_factors(scale, outer, scheme, shape)
    own = None if codes is None else native_array(codes, "codes").reshape(shape)
    return Sides(matrix, values, scheme, own, factors)


def _report(sums: Sums, sides: Sides) -> ErrorReport:
    sqnr = _sqnr(sums)
    count = max(sums.count, 1)
    signed = [finite_signed(counts) for counts in (sums.reference, sums.actual)]
    p50, p90, p99 = _quantiles(sums.relative[: sums.nonzero])
    return ErrorReport(
        count=sums.count,
        sqnr_db=sqnr,
        nmse=0.0 if sums.ee == 0.0 else _ratio(sums.ee, sums.rr),
        bias=0.0 if sums.ee == 0.0 else _ratio(sums.error / max(sums.finite, 1), math.sqrt(sums.rr / sums.finite)),
        gain=_gain(sums),
        cosine_similarity=_cosine(sums),
        max_abs_error=sums.max_abs,
        max_relative_error=sums.max_relative,
        relative_p50=p50,
        relative_p90=p90,
        relative_p99=p99,
        kl_forward=kl_divergence(signed[0], signed[1]),
        kl_backward=kl_divergence(signed[1], signed[0]),
        underflow=int(sums.underflowed.sum()) / count,
        overflow_clipped=None if sides.scheme is None else int(sums.clipped.sum()) / count,
        nan_created=sums.nan_created,
        inf_created=sums.inf_created,
        **({} if sides.scheme is None else _scheme_figures(sums, sides.scheme, sqnr)),
        histograms=_histograms(sums, sides.scheme),
    )


def _ratio(numerator: float, denominator: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(np.float64(numerator) / np.float64(denominator))


def _sqnr(sums: Sums) -> float:
    if sums.ee == 0.0:
        return math.inf
    ratio = _ratio(sums.rr, sums.ee)
    if math.isnan(ratio):
        return math.nan
    return 10.0 * math.log10(ratio) if ratio > 0.0 else -math.inf


def _gain(sums: Sums) -> float:
    """<r, a> / <r, r>, as `metrics.gain`: 1 for two zero tensors, NaN for something from nothing."""
    if sums.rr == 0.0:
        return 1.0 if sums.aa == 0.0 else math.nan
    return _ratio(sums.ra, sums.rr)


def _cosine(sums: Sums) -> float:
    if math.isnan(sums.aa):
        return math.nan
    if sums.rr == 0.0 or sums.aa == 0.0:
        return 1.0 if sums.rr == sums.aa else 0.0
    return _ratio(sums.ra, math.sqrt(sums.rr) * math.sqrt(sums.aa))


def _quantiles(relative: NDArray[np.float32]) -> tuple[float, float, float]:
    """The smallest numbers that at least 50, 90 and 99 % of the errors do not exceed; a created NaN counts as the
    largest, 0 where there are none."""
    if not relative.size:
        return 0.0, 0.0, 0.0
    ranks = [max(0, -(-share * relative.size // 100) - 1) for share in (50, 90, 99)]
    ordered = np.partition(relative, ranks)  # NaN sorts to the end
    found = [float(ordered[rank]) for rank in ranks]
    return found[0], found[1], found[2]


def _scheme_figures(sums: Sums, scheme: Scheme, sqnr: float) -> Mapping[str, Any]:
    known = sums.ulp_count
    has_codes = bool(sums.codes.size)
    used = sums.codes > 0
    if has_codes:
        used &= np.isfinite(scheme.element.values())
    rms = np.sqrt(sums.squares / np.maximum(sums.sizes, 1.0))
    live = np.isfinite(sums.amax) & (sums.amax > 0) & (rms > 0)
    ratio = float(np.mean(sums.amax[live] / sums.unit / rms[live])) if live.any() else math.nan
    return {
        "ulp_max": sums.ulp_max,
        "ulp_mean": sums.ulp_sum / known if known else 0.0,
        "ulp_over_half": sums.ulp_over / known if known else 0.0,
        "blocks": sums.amax.size,
        "blocks_clipped": int(np.count_nonzero(sums.group_clips)),
        "blocks_zeroed": int(np.count_nonzero((sums.amax > 0) & (sums.group_result == 0))),
        "codes_used": int(np.count_nonzero(used)) if has_codes else None,
        "codes_available": _available(scheme.element) if has_codes else None,
        "code_entropy_bits": entropy_bits(sums.codes) if has_codes else None,
        "effective_bits": sqnr / DECIBELS_PER_BIT,
        "amax_over_rms": ratio,
        "scheme": str(scheme),
    }


def _available(element: Format) -> int:
    """Codes that encoding a finite number may give."""
    return element.finite_codes if isinstance(element, FloatFormat) else len(levels(element))


def _histograms(sums: Sums, scheme: Scheme | None) -> Histograms:
    reference, actual = (magnitude_counts(finite_signed(counts)) for counts in (sums.reference, sums.actual))
    # Bin 0 is zero itself and has no place on an axis of magnitudes.
    occupied = np.flatnonzero((reference + actual)[1:2047]) + 1
    first, last = (int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else (1023, 1023)
    part = slice(first, last)
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = np.sqrt(sums.relative_squares[part] / reference[part])
    code_values: tuple[float, ...] = ()
    code_counts: tuple[int, ...] = ()
    if scheme is not None and sums.codes.size:
        values = scheme.element.values()
        shown = np.isfinite(values) & (values >= scheme.element.min) & (values <= scheme.element.max)
        code_values, code_counts = pooled(values[shown], sums.codes[shown])
    value, error = (_joined(parts) for parts in (sums.sample_value, sums.sample_error))
    finite = np.isfinite(value) & np.isfinite(error)
    value, error = value[finite], error[finite]
    size = np.sort(np.abs(value))
    limits = (float(size[-(len(size) // 1000) - 1]) if size.size else 0.0, float(np.max(np.abs(error), initial=0.0)))
    return Histograms(
        first_binade=first - 1023,
        reference=tuple(reference[part].tolist()),
        actual=tuple(actual[part].tolist()),
        underflowed=tuple(sums.underflowed[part].tolist()),
        clipped=tuple(sums.clipped[part].tolist()),
        relative_rms=tuple(rms.tolist()),
        code_values=code_values,
        code_counts=code_counts,
        value_limit=limits[0],
        error_limit=limits[1],
        value_error=value_error_counts(value, error, limits[0], limits[1]),
    )


def _joined(parts: list[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.zeros(0)
