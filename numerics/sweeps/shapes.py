"""Curves that the names of a sweep's tensors imply: SQNR over the shape of generalized Gaussians."""

from __future__ import annotations

import math
import re

from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import Series

_FAMILIES = (
    ("gg", "SQNR over the shape of a generalized Gaussian", "shape ν (1 is Laplace, 2 is Gauss)"),
    ("student_t", "SQNR over the tails of Student's t", "degrees of freedom"),
    ("lognormal", "SQNR over the spread of a lognormal", "σ of ln|x|"),
    ("rows", "SQNR over the spread of the rows", "σ of the rows' ln magnitude"),
)
FEWEST = 3
"""Points that make a curve."""


def shape_series(result: SweepResult) -> list[Series]:
    """A series for each family of distributions that occurs with at least three parameters."""
    series = []
    for family, title, label in _FAMILIES:
        found = {}
        for tensor in result.tensors:
            match = re.fullmatch(rf"{family}([\d.]+(?:e[+-]?\d+)?)", tensor.info.name)
            if match and tensor.info.role == "distribution":
                found[float(match[1])] = tensor.info.name
        if len(found) >= FEWEST:
            x = sorted(found)
            rows = {
                scheme.text: tuple(_sqnr(result, found[value], scheme.text) for value in x) for scheme in result.schemes
            }
            series.append(Series(title, label, "SQNR, dB", tuple(x), rows))
    return series


def _sqnr(result: SweepResult, tensor: str, scheme: str) -> float:
    row = result.row(tensor, scheme)
    return math.nan if row is None else row.sqnr_db
