"""One tensor under one scheme: quantise, compare, and what a report says of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from math import prod
from typing import Any, TypeAlias

import numpy as np

from narrowgauge.formats import Scheme, quantize_reference
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.numerics.errors.measure import compare
from narrowgauge.numerics.errors.report import ErrorReport
from narrowgauge.numerics.sweeps.rows import SchemeSummary, Skipped, SweepRow, TensorSummary
from narrowgauge.numerics.tensors.named import Float32Array, NamedTensor

Quantize: TypeAlias = Callable[[Float32Array, str, int], Any]
"""quantize(x, scheme text, seed) -> the dequantised values, or (codes, scale, outer)."""
ALWAYS = ("sqnr_db", "underflow", "overflow_clipped")
"""Metrics that every row has: tables and reports are made of them."""
_NO_METRICS = {"count", "scheme", "histograms"}


def quantize_exactly(x: Float32Array, scheme: str, seed: int) -> tuple[Any, Any, Any]:
    """(codes, scale, outer) by the numpy reference."""
    quantized = quantize_reference(x, scheme, seed)
    return quantized.codes, quantized.scale, quantized.outer


def metric_names(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """`metrics` and `ALWAYS` in the order of `ErrorReport`; all of its figures for None. ValueError for an unknown
    name."""
    known = tuple(entry.name for entry in fields(ErrorReport) if entry.name not in _NO_METRICS)
    if metrics is None:
        return known
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ValueError(f"metrics: got {unknown[0]!r}, accepted: {', '.join(known)}")
    return tuple(name for name in known if name in metrics or name in ALWAYS)


def measure(
    tensor: NamedTensor, spec: Scheme, quantize: Quantize, seed: int, metrics: Sequence[str]
) -> SweepRow | Skipped:
    """The row of one tensor under one scheme, or why `quantize` refuses it (with a ValueError)."""
    info, x, text = tensor.info, tensor.values, str(spec)
    try:
        result = quantize(x, text, seed)
    except ValueError as error:
        return Skipped(text, str(error), info.name)
    if isinstance(result, tuple):
        codes, scale, outer = result
        report = compare(None, x, scheme=spec, codes=codes, scale=scale, outer=outer)
    else:
        report = compare(result, x, scheme=spec)
    values = {name: getattr(report, name) for name in metrics}
    kept = {name: None if value is None else float(value) for name, value in values.items()}
    return SweepRow(info.name, info.role, text, bits_per_value(spec, x.shape), kept)


def bits_per_value(scheme: Scheme, shape: tuple[int, ...]) -> float:
    """Bits that a tensor of this shape takes per value, its scales included (a code counts its own width)."""
    size = prod(shape)
    if size == 0:
        return float(scheme.element.bits)
    scales = prod(scheme.scale_shape(shape)) * scheme.scale_bits
    outer = 32 if scheme.two_level else 0
    return scheme.element.bits + (scales + outer) / size


def describe(spec: Scheme) -> SchemeSummary:
    """The scheme's text and the limits of its elements."""
    element = spec.element
    normal = element.smallest_normal if isinstance(element, FloatFormat) else element.smallest_subnormal
    return SchemeSummary(
        text=str(spec),
        format=spec.format.name,
        granularity=spec.granularity,
        element=element.name,
        element_bits=element.bits,
        max=float(element.max),
        smallest_normal=float(normal),
        smallest=float(element.smallest_subnormal),
    )


def summarize(tensor: NamedTensor) -> TensorSummary:
    """Statistics of a tensor's finite elements, in float64."""
    x = tensor.values.reshape(-1)
    finite = np.abs(x[np.isfinite(x)].astype(np.float64))
    amax = float(finite.max(initial=0.0))
    # Relative to amax, so that no power overflows or vanishes.
    ratio = finite / amax if amax > 0.0 else finite
    second = float(np.mean(ratio**2)) if finite.size else 0.0
    kurtosis = float(np.mean(ratio**4)) / second**2 if second > 0.0 else 0.0
    nonzero = finite[finite > 0.0]
    bins = np.floor(2.0 * np.log2(nonzero)).astype(np.int64)
    first = int(bins.min()) if bins.size else 0
    count = max(x.size, 1)
    return TensorSummary(
        info=tensor.info,
        count=int(x.size),
        amax=amax,
        rms=amax * second**0.5,
        kurtosis=kurtosis,
        zeros=float((finite.size - nonzero.size) / count),
        not_finite=float((x.size - finite.size) / count),
        first_bin=first,
        histogram=tuple(int(n) for n in np.bincount(bins - first)) if bins.size else (),
    )
