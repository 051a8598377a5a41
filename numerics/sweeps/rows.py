"""The records of a sweep: tensors, schemes, and one row for each pair of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from narrowgauge.numerics.tensors.named import TensorInfo

TARGET_DB = 30.0
"""SQNR in dB that counts as good where a caller names none: an error of 3.2 % of the tensor's rms."""
EXACT_DB = 200.0
"""SQNR that an exact copy counts as in means and on axes; float32 itself has about 150."""

Metrics: TypeAlias = Mapping[str, float | None]


@dataclass(frozen=True)
class TensorSummary:
    """A tensor and its statistics, over the finite elements that were read.

    zeros and not_finite are shares of the elements. histogram: elements per half binade of |x|, that is of
    floor(2·log2|x|), the first of which is `first_bin`; zeros are not in it.
    """

    info: TensorInfo
    count: int
    amax: float
    rms: float
    kurtosis: float
    zeros: float
    not_finite: float
    first_bin: int
    histogram: tuple[int, ...]

    @property
    def amax_over_rms(self) -> float:
        """Largest magnitude in units of the rms; 0 for a tensor of zeros."""
        return self.amax / self.rms if self.rms > 0.0 else 0.0


@dataclass(frozen=True)
class SchemeSummary:
    """A scheme by its text, and the limits of its elements (scale 1)."""

    text: str
    format: str
    granularity: str
    element: str
    element_bits: int
    max: float
    smallest_normal: float
    smallest: float


@dataclass(frozen=True)
class SweepRow:
    """One tensor under one scheme. bits: storage per value with its share of the scales. metrics: what
    `numerics.compare` measures, by name; None where it does not apply."""

    tensor: str
    role: str
    scheme: str
    bits: float
    metrics: Metrics

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise ratio in dB; inf for an exact copy."""
        return self.metric("sqnr_db")

    def metric(self, name: str) -> float:
        """A metric as a float, NaN where it does not apply. KeyError for one that was not kept."""
        value = self.metrics[name]
        return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Skipped:
    """A scheme that was not measured, on `tensor` (empty: on any), and why."""

    scheme: str
    reason: str
    tensor: str = ""


@dataclass(frozen=True)
class Series:
    """Curves over a common abscissa, for the report: name -> one value per x."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Choice:
    """The scheme that was chosen for `name` (a tensor, a role, or "all"), with the mean and the lowest SQNR over
    its `tensors`, in dB. reaches: whether each of them has the SQNR that was asked for."""

    name: str
    scheme: str
    bits: float
    sqnr_db: float
    lowest_db: float
    tensors: int
    reaches: bool = True


def clipped_db(sqnr_db: float) -> float:
    """SQNR for means and axes: an exact copy counts as `EXACT_DB`, NaN as -`EXACT_DB`."""
    return -EXACT_DB if math.isnan(sqnr_db) else min(max(sqnr_db, -EXACT_DB), EXACT_DB)


def choice_of(name: str, rows: list[SweepRow]) -> Choice:
    values = [clipped_db(row.sqnr_db) for row in rows]
    return Choice(name, rows[0].scheme, fmean(row.bits for row in rows), fmean(values), min(values), len(rows))
