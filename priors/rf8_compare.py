"""RF8 beside other 8-bit formats on generalized Gaussian data: where it is better, and where it is not.

Weights are drawn from GG(shape) with a standard deviation; every format gets the same ones, cast directly (scaling
"none") or scaled by the largest magnitude of the tensor, of each row, or of 128 neighbours. One row of the result is
the mean over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import torch

from narrowgauge.formats import get
from narrowgauge.kernels import quantize
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.rf8_cast import CastError, cast_error

READINGS = ("rf8", "rf8_nearest", "rf8_floor", "rf8_floor_log")
FORMATS = (*READINGS, "e4m3fn", "e5m2", "int8", "hif8", "posit8es1", "posit8es2")
SHAPES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
SCALINGS = {"tensor": "", "row": "/row", "1x128": "/1x128", "none": ":static=1.0"}
"""Name → what it adds to the format's."""
STDS = tuple(2.0**-e for e in range(0, 15))
STD = 0.02


@dataclass(frozen=True)
class Comparison:
    """One format on one kind of data; see `CastError` for the measures. std: of the data, which matters for scaling
    "none" alone."""

    shape: float
    std: float
    scaling: str
    format: str
    sqnr_db: float
    worst: float
    flushed: float
    clipped: float


@dataclass(frozen=True)
class Verdict:
    """Where a format stands on one kind of data. margin_db: its SQNR less that of the best other one, readings of RF8
    aside; beats, loses_to: those others, by SQNR."""

    shape: float
    std: float
    scaling: str
    format: str
    sqnr_db: float
    best: str
    margin_db: float
    beats: tuple[str, ...]
    loses_to: tuple[str, ...]


def compare_formats(
    shapes: Sequence[float] = SHAPES,
    formats: Sequence[str] = FORMATS,
    scalings: Sequence[str] = tuple(SCALINGS),
    *,
    stds: Sequence[float] = (STD,),
    size: tuple[int, int] = (512, 2048),
    seeds: int = 3,
    show: Callable[[int, int, str], None] | None = None,
) -> list[Comparison]:
    """Every format × scaling × shape × standard deviation, on `size` weights for each of so many seeds.

    Integers are left out of scaling "none": their codes hold no fractions. show(done, total, next) is told the
    progress, in kinds of data. ValueError for an unknown scaling or format,
    and for no seeds.
    """
    if seeds < 1:
        raise ValueError(f"seeds: got {seeds}, accepted: at least 1")
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise ValueError(f"scalings: got {scaling!r}, accepted: {', '.join(SCALINGS)}")
    for name in formats:
        get(name)
    found: list[Comparison] = []
    kinds = list(product(shapes, stds))
    for done, (shape, std) in enumerate(kinds):
        if show is not None:
            show(done, len(kinds), f"shape {shape:g}, std {std:g}")
        prior = GeneralizedGaussian.from_std(shape, std)
        samples = [
            prior.sample(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
            for seed in range(seeds)
        ]
        for scaling, name in _cases(scalings, formats):
            text = name + SCALINGS[scaling]
            errors = [cast_error(name, x, quantize(x, text)) for x in samples]
            found.append(Comparison(shape, std, scaling, name, *_mean(errors)))
    return found


def _cases(scalings: Sequence[str], formats: Sequence[str]) -> Iterator[tuple[str, str]]:
    for scaling in scalings:
        for name in formats:
            if scaling != "none" or get(name).family != "integer":
                yield scaling, name


def _mean(errors: Sequence[CastError]) -> tuple[float, float, float, float]:
    """SQNR of the mean ratio of powers, the worst error of all, and mean shares."""
    noise = fmean(10.0 ** (-error.sqnr_db / 10.0) for error in errors)
    return (
        -10.0 * math.log10(noise) if noise > 0.0 else math.inf,
        max(error.worst for error in errors),
        fmean(error.flushed for error in errors),
        fmean(error.clipped for error in errors),
    )


def verdicts(rows: Sequence[Comparison], reading: str = "rf8") -> list[Verdict]:
    """Where one reading of RF8 stands among the formats that are none, for each kind of data in `rows`.

    ValueError where the reading or every other format is missing.
    """
    groups: dict[tuple[float, float, str], dict[str, float]] = {}
    for row in rows:
        groups.setdefault((row.shape, row.std, row.scaling), {})[row.format] = row.sqnr_db
    found = []
    for key, decibels in groups.items():
        others = {name: value for name, value in decibels.items() if name not in READINGS}
        if reading not in decibels or not others:
            raise ValueError(f"rows: got {', '.join(decibels)} at {key}, accepted: {reading} and others beside it")
        own, best = decibels[reading], max(others, key=others.__getitem__)
        found.append(
            Verdict(
                *key,
                reading,
                own,
                best,
                own - others[best],
                tuple(name for name, value in others.items() if own > value),
                tuple(name for name, value in others.items() if own <= value),
            )
        )
    return found
