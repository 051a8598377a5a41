"""Many fits at once: a generalized Gaussian for each row of a matrix, or for each parameter of a module.

The formulas are those of `narrowgauge.priors.fit`, on tensors: one pass over the values for the moment ratio, some
twenty for maximum likelihood, however many rows there are.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from narrowgauge.formats.rounding import choice
from narrowgauge.priors.fit import SHAPE_MAX, SHAPE_MIN, FitMethod, fit, moment_ratio, table_shapes
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.roots import roots

_CHUNK = 1 << 22
"""Elements in float64 at a time."""


class RowFits(NamedTuple):
    """Shapes (ν) and scales (α) of the rows, float64 tensors [rows]; NaN where a row has no fit."""

    shapes: Tensor
    scales: Tensor

    def row(self, index: int) -> GeneralizedGaussian:
        """The distribution of one row; ValueError for a row without a fit."""
        shape, scale = float(self.shapes[index]), float(self.scales[index])
        if math.isnan(shape):
            raise ValueError(f"index: row {index} has no fit (zeros only, or too few other values)")
        return GeneralizedGaussian(shape, scale)


def shapes_from_ratios(ratios: Tensor, *, table: bool = False) -> Tensor:
    """`shape_from_ratio` of every element: float64, of the shape and on the device of `ratios`; NaN stays NaN.

    ValueError for a ratio below 1.
    """
    ratios = ratios.double()
    if bool((ratios < 1.0).any()):
        raise ValueError(f"ratios: got {float(ratios.min())}, accepted: N Σx² / (Σ|x|)², which is >= 1")
    if table:
        return _nearest_entry(ratios)
    low, high = math.log(SHAPE_MIN), math.log(SHAPE_MAX)
    logs = ratios.log()
    target = torch.where(logs.isnan(), torch.zeros_like(logs), logs)
    shapes = roots(
        lambda t: _log_moment_ratio(t.exp()) - target, torch.full_like(target, low), torch.full_like(target, high)
    ).exp()
    shapes = torch.where(target <= math.log(moment_ratio(SHAPE_MAX)), SHAPE_MAX, shapes)
    shapes = torch.where(target >= math.log(moment_ratio(SHAPE_MIN)), SHAPE_MIN, shapes)
    return torch.where(logs.isnan(), logs, shapes)


@cache
def _table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Ratios in ascending order (shapes fall), and their shapes."""
    shapes = torch.tensor(table_shapes()[::-1].copy(), dtype=torch.float64, device=device)
    ratios = torch.tensor([moment_ratio(float(shape)) for shape in shapes], dtype=torch.float64, device=device)
    return ratios, shapes


def _nearest_entry(ratios: Tensor) -> Tensor:
    """The shape of the nearest ratio of the table; of two at the same distance the smaller shape, which comes first
    in the table."""
    entries, shapes = _table(ratios.device)
    above = torch.searchsorted(entries, ratios).clamp(1, len(entries) - 1)
    is_lower = ratios - entries[above - 1] < entries[above] - ratios
    found = shapes[torch.where(is_lower, above - 1, above)]
    return torch.where(ratios.isnan(), ratios, found)


def _log_moment_ratio(shape: Tensor) -> Tensor:
    inverse = 1.0 / shape
    return inverse.lgamma() + (3.0 * inverse).lgamma() - 2.0 * (2.0 * inverse).lgamma()


def fit_rows(x: Tensor, method: FitMethod | str = "ratio", *, table: bool = False) -> RowFits:
    """The generalized Gaussian about zero of each row of `x`.

    x: [rows, …] of any real dtype, on any device; what follows the first dimension is one sample (of a convolution's
        weight, an output channel). method, table: as in `fit`.

    Rows of zeros, and under "mle" rows with too few other values, get NaN. ValueError for fewer than two dimensions,
    for rows without elements, and for NaN and infinities, naming the first such row; TypeError for what are not real
    numbers.
    """
    chosen = choice(FitMethod, method, "method")
    if table and chosen is not FitMethod.RATIO:
        raise ValueError(f"table: got True with method {method!r}, accepted: only with method 'ratio'")
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"x: got dtype {x.dtype}, accepted: real numbers")
    if x.ndim < 2 or x[:1].numel() == 0:
        raise ValueError(f"x: got shape {tuple(x.shape)}, accepted: [rows, …] with elements in each row")
    rows = x.detach().flatten(1)
    pieces, first = [], 0
    for piece in rows.split(max(1, _CHUNK // rows.shape[1])):
        pieces.append(_fit_piece(piece.double().abs(), chosen, table, first))
        first += len(piece)
    return RowFits(torch.cat([p.shapes for p in pieces]), torch.cat([p.scales for p in pieces]))


def _fit_piece(magnitudes: Tensor, method: FitMethod, table: bool, first: int) -> RowFits:
    amax = magnitudes.amax(1)
    if not bool(amax.isfinite().all()):
        row = first + int((~amax.isfinite()).nonzero()[0])
        raise ValueError(f"x: got NaN or infinite values in row {row}, accepted: finite")
    y = magnitudes / torch.where(amax > 0, amax, torch.ones_like(amax))[:, None]
    mean, mean_square = y.mean(1), y.square().mean(1)
    empty = amax == 0
    # Rounding may put the ratio of constant magnitudes a hair below its minimum.
    ratios = (mean_square / mean.square()).clamp(min=1.0)
    shapes = shapes_from_ratios(torch.where(empty, torch.nan, ratios), table=table)
    if method is FitMethod.MLE:
        shapes, scales = _maximum_likelihood(y, torch.where(empty, 2.0, shapes))
        bad = empty | (scales == 0)
        return RowFits(torch.where(bad, torch.nan, shapes), torch.where(bad, torch.nan, scales * amax))
    inverse = 1.0 / shapes
    scales = amax * (mean_square.log() + inverse.lgamma() - (3.0 * inverse).lgamma()).mul(0.5).exp()
    return RowFits(shapes, torch.where(empty, torch.nan, scales))


def _maximum_likelihood(y: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes and scales of the local maxima of the profile likelihoods that lie uphill of `start`."""
    count = y.shape[1]
    present = y > 0
    logs = torch.where(present, y, 1.0).log()
    zeros = (~present).sum(1)

    def sums(shape: Tensor) -> tuple[Tensor, Tensor]:
        powers = (shape[:, None] * logs).exp()
        # A zero was given the logarithm 0, whose power is 1 in the first sum and 0 in the second.
        return powers.sum(1) - zeros, (powers * logs).sum(1)

    def score(t: Tensor) -> Tensor:
        """ν/N times the derivative of the profile log-likelihood, as a function of ln ν."""
        shape = t.exp()
        s, derivative = sums(shape)
        s = torch.where(zeros == count, torch.ones_like(s), s)
        return 1.0 + ((1.0 / shape).digamma() + (shape * s / count).log()) / shape - derivative / s

    low, high, here = math.log(SHAPE_MIN), math.log(SHAPE_MAX), start.log()
    uphill = score(here) > 0
    end = torch.where(uphill, torch.full_like(here, high), torch.full_like(here, low))
    there, searching = here.clone(), torch.ones_like(uphill)
    while bool(searching.any()):
        here = torch.where(searching, there, here)
        step = math.log(1.25) * (2.0 * uphill.double() - 1.0)
        there = torch.where(searching, (here + step).clamp(low, high), there)
        searching = searching & ((score(there) > 0) == uphill) & (there != end)
    shape = roots(score, here, there, tolerance=1e-11)
    # No change of sign up to the end: the end.
    shape = torch.where((score(there) > 0) == uphill, end, shape).exp().clamp(SHAPE_MIN, SHAPE_MAX)
    s, _ = sums(shape)
    return shape, (shape * s / count).pow(1.0 / shape)


def fit_layers(
    module: nn.Module, method: FitMethod | str = "ratio", *, table: bool = False, matrices_only: bool = True
) -> dict[str, GeneralizedGaussian]:
    """Name → fit of each parameter of `module`, in its order; tied ones under their first name.

    matrices_only: parameters of two or more dimensions alone. Parameters that are empty or zeros only have no fit and
    are left out. Errors as in `fit`, which see, naming the parameter.
    """
    found: dict[str, GeneralizedGaussian] = {}
    for name, p in module.named_parameters():
        if (p.ndim >= 2 or not matrices_only) and p.numel() and bool(p.detach().any()):
            try:
                found[name] = fit(p, method, table=table)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    return found
