"""A model's weights layer by layer: the fitted distribution, how good the fit is, and what the layer costs to store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from narrowgauge.priors.fit import FitMethod, shape_from_ratio
from narrowgauge.priors.generalized_gaussian import FloatArray, GeneralizedGaussian
from narrowgauge.priors.goodness import KS_VALUES, Comparison, compare
from narrowgauge.priors.penalty import sums
from narrowgauge.priors.rate import STEP, prior_bits

HISTOGRAM_BINS = 61
HISTOGRAM_REACH = 6.0
"""Standard deviations on each side that a histogram shows, at most."""


@dataclass(frozen=True)
class Histogram:
    """density: of the values in equally wide bins over [-reach, reach], so that a curve of the density fits over it."""

    reach: float
    density: tuple[float, ...]

    @property
    def centres(self) -> FloatArray:
        """The middle of each bin."""
        edges = np.linspace(-self.reach, self.reach, len(self.density) + 1)
        return np.asarray((edges[1:] + edges[:-1]) / 2)


@dataclass(frozen=True)
class LayerReport:
    """One tensor. shape: its sizes. count: values that were looked at. zeros: share of exact zeros. std: about zero.
    bits: entropy per value of the fitted distribution quantised with the report's step."""

    name: str
    shape: tuple[int, ...]
    count: int
    zeros: float
    std: float
    models: Comparison
    bits: float
    histogram: Histogram

    @property
    def prior(self) -> GeneralizedGaussian:
        """The fitted generalized Gaussian."""
        return self.models.fitted.prior


@dataclass(frozen=True)
class ModelReport:
    """layers: those that were asked for, in their order. pooled: of all tensors as one sample, vectors included, as
    BackSlash publishes it, and matrices: of those of two or more dimensions; both by the moment ratio, None where there
    are none but zeros. left_out: name → why it is not among the layers."""

    step: float
    layers: tuple[LayerReport, ...]
    pooled: GeneralizedGaussian | None
    matrices: GeneralizedGaussian | None
    left_out: Mapping[str, str] = field(default_factory=dict)


def report_layer(
    name: str,
    values: Tensor,
    *,
    shape: tuple[int, ...] | None = None,
    method: FitMethod | str = "ratio",
    step: float = STEP,
    ks_values: int = KS_VALUES,
) -> LayerReport:
    """The report of one tensor. shape: of the whole where `values` is a part of it. Errors as in `compare`, beginning
    with the name."""
    try:
        models = compare(values, method, ks_values=ks_values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    flat = values.detach().reshape(-1)
    return LayerReport(
        name=name,
        shape=tuple(values.shape) if shape is None else shape,
        count=flat.numel(),
        zeros=int((flat == 0).sum()) / flat.numel(),
        std=models.gaussian.prior.std,
        models=models,
        bits=prior_bits(models.fitted.prior, step),
        histogram=histogram(flat, models.gaussian.prior.std),
    )


def histogram(values: Tensor, std: float) -> Histogram:
    """The histogram of a flat tensor up to HISTOGRAM_REACH standard deviations, or its largest magnitude."""
    largest = max(abs(float(values.min())), abs(float(values.max())))
    reach = min(HISTOGRAM_REACH * std, largest)
    edges = np.linspace(-reach, reach, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(values.double().cpu().numpy(), bins=edges)
    width = 2 * reach / HISTOGRAM_BINS
    return Histogram(reach, tuple((counts / values.numel() / width).tolist()))


class ModelReporter:
    """Collects a report one tensor at a time, so that no more than one has to be in memory.

    vectors: also report tensors of fewer than two dimensions; they count for `pooled` in any case. method, step,
    ks_values: as in `report_layer`.
    """

    def __init__(
        self,
        *,
        vectors: bool = False,
        method: FitMethod | str = "ratio",
        step: float = STEP,
        ks_values: int = KS_VALUES,
    ) -> None:
        self._vectors, self._method, self._step, self._ks_values = vectors, method, step, ks_values
        self._layers: list[LayerReport] = []
        self._left_out: dict[str, str] = {}
        self._sums = {"pooled": [0.0, 0.0, 0.0], "matrices": [0.0, 0.0, 0.0]}

    def add(self, name: str, values: Tensor, shape: tuple[int, ...] | None = None) -> None:
        """Takes in a tensor. shape: of the whole, where `values` are rows of it; each of them counts for those that are
        left out."""
        shape = tuple(values.shape) if shape is None else shape
        if values.numel() == 0:
            self._left_out[name] = "empty"
            return
        first, second = (float(part[0]) for part in sums([values]))
        share = math.prod(shape) / values.numel()
        for key in ("pooled", "matrices") if len(shape) >= 2 else ("pooled",):
            for index, part in enumerate((math.prod(shape), first * share, second * share)):
                self._sums[key][index] += part
        if first == 0.0:
            self._left_out[name] = "all zeros"
        elif len(shape) < 2 and not self._vectors:
            self._left_out[name] = "a vector"
        else:
            layer = report_layer(
                name, values, shape=shape, method=self._method, step=self._step, ks_values=self._ks_values
            )
            self._layers.append(layer)

    def result(self) -> ModelReport:
        """The report. ValueError where no tensor was left to report."""
        if not self._layers:
            first = next((f"{name} ({why})" for name, why in self._left_out.items()), "none")
            raise ValueError(f"model: no tensor to report among {len(self._left_out)}; the first: {first}")
        pooled, matrices = (_pooled(*self._sums[key]) for key in ("pooled", "matrices"))
        return ModelReport(self._step, tuple(self._layers), pooled, matrices, self._left_out)


def _pooled(count: float, first: float, second: float) -> GeneralizedGaussian | None:
    if first == 0.0:
        return None
    return GeneralizedGaussian.from_std(
        shape_from_ratio(max(1.0, count * second / first**2)), math.sqrt(second / count)
    )


def report_model(
    model: torch.nn.Module | Iterable[tuple[str, Tensor]],
    *,
    vectors: bool = False,
    method: FitMethod | str = "ratio",
    step: float = STEP,
    ks_values: int = KS_VALUES,
) -> ModelReport:
    """The report of a module's parameters, or of named tensors. Errors as in `ModelReporter`."""
    reporter = ModelReporter(vectors=vectors, method=method, step=step, ks_values=ks_values)
    for name, p in model.named_parameters() if isinstance(model, torch.nn.Module) else model:
        reporter.add(name, p.detach())
    return reporter.result()
