"""Power laws with a floor, fitted so that a poor start cannot lead them astray.

``L(x) = A / x^a + E`` has three parameters for as few as four points. For a given exponent it is linear in ``A`` and
``E``, so these are solved exactly, within ``A >= 0`` and ``0 <= E <= min(L)``, and only the exponent is searched
("variable projection": Golub, Pereyra, SIAM J. Numer. Anal. 10, 1973). The best exponent of a grid is refined between
its neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

EXPONENTS = (0.05, 4.0)
"""The exponents that are searched, unless others are asked for."""
_GRID = 41

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``L(x) = scale / x^exponent + asymptote``, for ``x > 0``."""

    scale: float
    exponent: float
    asymptote: float

    def __call__(self, x: float) -> float:
        """``L(x)``."""
        return self.scale / x**self.exponent + self.asymptote

    def inverse(self, loss: float) -> float:
        """The ``x`` at which the law gives ``loss``; ``ValueError`` where it never does."""
        if not (loss > self.asymptote and self.scale > 0):
            raise ValueError(f"loss: the law {self} gives only losses above {self.asymptote:g}, got {loss!r}")
        return float((self.scale / (loss - self.asymptote)) ** (1 / self.exponent))


@dataclass(frozen=True, slots=True)
class PowerLawFit:
    """A fitted law. ``residual``: root mean square of measured - fitted. ``covariance`` [3, 3] float64 of (scale,
    exponent, asymptote), linearised, NaN where the points do not determine it (three points, or ``scale`` 0).
    ``is_falling``: whether every measured loss is below the one before, without which an asymptote means nothing.
    ``is_at_bound``: whether the exponent is at an end of the range that was searched."""

    law: PowerLaw
    residual: float
    covariance: Vector
    is_falling: bool
    is_at_bound: bool


def is_falling(losses: Sequence[float]) -> bool:
    """Whether each loss is below the one before it."""
    return all(later < earlier for earlier, later in pairwise(losses))


def fit_power_law(
    x: Sequence[float], losses: Sequence[float], *, exponents: tuple[float, float] = EXPONENTS
) -> PowerLawFit:
    """The law of least squares through ``losses`` at ``x``, at least three different positive numbers that rise.

    Raises ``ValueError`` for other ``x``, for losses that are not finite and positive, and for a range of exponents
    that is none.
    """
    points, values = np.asarray(x, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    low, high = exponents
    if points.ndim != 1 or points.size < 3 or not (points[0] > 0 and np.all(np.diff(points) > 0)):
        raise ValueError(f"x: expected at least three rising numbers above 0, got {list(x)!r}")
    if values.shape != points.shape or not (np.all(np.isfinite(values)) and np.all(values > 0)):
        raise ValueError(f"losses: expected {points.size} finite numbers above 0, one for each x, got {list(losses)!r}")
    if not (0 < low < high < math.inf):
        raise ValueError(f"exponents: expected 0 < low < high, got {exponents!r}")
    centre = math.exp(float(np.log(points).mean()))
    scaled = points / centre  # so that x^-a neither overflows nor becomes constant

    def squares(log_exponent: float) -> float:
        return _project(scaled, values, math.exp(log_exponent))[2]

    grid = np.linspace(math.log(low), math.log(high), _GRID)
    best = int(np.argmin([squares(point) for point in grid]))
    between = (grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)])
    refined = float(minimize_scalar(squares, bounds=between, method="bounded", options={"xatol": 1e-10}).x)
    exponent = math.exp(min((refined, float(grid[best])), key=squares))
    scale, asymptote, total = _project(scaled, values, exponent)
    law = PowerLaw(scale * centre**exponent, exponent, asymptote)
    return PowerLawFit(
        law=law,
        residual=math.sqrt(total / points.size),
        covariance=_covariance(points, law, total),
        is_falling=is_falling(values.tolist()),
        is_at_bound=min(math.log(exponent / low), math.log(high / exponent)) < 1e-6,
    )


def _project(x: Vector, values: Vector, exponent: float) -> tuple[float, float, float]:
    """The best ``A >= 0`` and ``0 <= E <= min(values)`` for an exponent, and their sum of squared residuals.

    A convex problem of two variables in a strip: its solution is the free one, or it lies on one of the edges.
    """
    u, ceiling = x**-exponent, float(values.min())
    centred = u - u.mean()
    spread = float(centred @ centred)
    slope = float(centred @ values) / spread if spread > 0 else 0.0
    free = (slope, float(values.mean() - slope * u.mean()))
    if free[0] >= 0 and 0 <= free[1] <= ceiling:
        candidates = [free]
    else:
        # No edge A = 0: with it the best E is the mean, which is not below the ceiling.
        candidates = [(max(0.0, float(u @ (values - e)) / float(u @ u)), e) for e in (0.0, ceiling)]

    def squares(a: float, e: float) -> float:
        rest = values - a * u - e
        return float(rest @ rest)

    scale, asymptote = min(candidates, key=lambda one: squares(*one))
    return scale, asymptote, squares(scale, asymptote)


def _covariance(x: Vector, law: PowerLaw, total: float) -> Vector:
    """``s² (JᵀJ)⁻¹`` with ``s²`` = sum of squares / (n - 3)."""
    unknown = np.full((3, 3), np.nan)
    if x.size <= 3 or law.scale == 0:
        return unknown
    u = x**-law.exponent
    jacobian = np.stack([u, -law.scale * u * np.log(x), np.ones_like(x)], axis=1)
    normal = jacobian.T @ jacobian
    if np.linalg.matrix_rank(normal) < 3:
        return unknown
    return np.asarray(total / (x.size - 3) * np.linalg.inv(normal), dtype=np.float64)
