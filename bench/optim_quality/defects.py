"""Cases at which COAT's published kernel loses a group, for every codec: constant groups, zeros, and one tiny element.

A figure is an error, and `broken` says which of them is not one that a codec has anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowgauge.bench.optim_quality.precision import BETAS, moments_of, subject
from narrowgauge.bench.optim_quality.sizes import Sizes
from narrowgauge.bench.optim_quality.table import Figures
from narrowgauge.numerics import max_relative_error, relative_rms
from narrowgauge.numerics.optimizers.contract import CONSTANT_ERROR, CONSTANT_RESOLUTIONS, FLOOR
from narrowgauge.numerics.optimizers.protocol import StateCodec

Array = NDArray[np.float64]
CONSTANTS = (1e-3, 0.37, 1.0, 3e-7)
LANES = (0, 32, 5)
COUNT = 768
"""Whole groups of 32 to 256 elements."""
AT = 256
"""Where a group of each of these lengths begins."""
INSIDE = 128
HIDDEN = 40
"""Where the smallest m of the 128 is put: a zero in lane 32 keeps the released kernel from seeing it."""
SIZE = 1e-4 / 0.23
"""Gradients that make m about 1e-4."""
TINY = 1e-12
POISONED = 2.0
"""How much larger the error of the others may be for one zero beside them."""

CONSTANT_COLUMNS = tuple(f"constant {value:g}" for value in CONSTANTS)
PLAIN = ("m", "max m", "v")
ZERO_COLUMNS = tuple(f"0 at {lane}: {what}" for lane in LANES for what in PLAIN)
TINY_COLUMNS = ("tiny: m", "tiny: v", "tiny: its v")
COLUMNS = (*CONSTANT_COLUMNS, "lone element", "zeros", *PLAIN, *ZERO_COLUMNS, *TINY_COLUMNS)


def defects(codec: StateCodec, sizes: Sizes) -> Figures:
    """The largest relative error of constant tensors and of a last group of one element; the largest magnitude read
    back from zeros; and, in the 128 elements beside one that is 0 or tiny, relative rms errors of m and v and the
    largest relative error of m: undisturbed ("m", "max m", "v"), with the zero at a place of its group, with m = 1e-12
    and v = 1e-24. "its v": what that v reads back as."""
    through = subject(codec).through
    found: dict[str, float] = {}
    with np.errstate(all="ignore"):
        for value, column in zip(CONSTANTS, CONSTANT_COLUMNS, strict=True):
            x = np.full(COUNT, np.float32(value), np.float64)
            found[column] = _worst(x, *through(x, x))
        m, v = moments_of("iid", BETAS[0], COUNT + 1, SIZE)
        got = through(m, v)
        found["lone element"] = max(abs(a[-1] / b[-1] - 1.0) for a, b in zip(got, (m, v), strict=True))
        zeros = np.zeros(COUNT)
        found["zeros"] = float(np.max(np.abs(np.stack(through(zeros, zeros)))))
        m, v = _with_smallest_at(m[:-1], AT + HIDDEN), v[:-1]
        found |= dict(zip(PLAIN, _beside(codec, m, v, AT, None)[:3], strict=True))
        for lane in LANES:
            columns = (f"0 at {lane}: {what}" for what in PLAIN)
            found |= dict(zip(columns, _beside(codec, m, v, AT + lane, (0.0, 0.0))[:3], strict=True))
        rms_m, _, rms_v, its_v = _beside(codec, m, v, AT + INSIDE // 2, (TINY, TINY**2))
        found |= dict(zip(TINY_COLUMNS, (rms_m, rms_v, its_v), strict=True))
    return {column: float(found[column]) for column in COLUMNS}


def broken(codec: StateCodec, figures: Figures) -> dict[str, str]:
    """Column → what is wrong: "NaN", "lost" (constant groups, zeros), "poisoned" (by a zero), "v = 0"."""
    limit = max(CONSTANT_ERROR, CONSTANT_RESOLUTIONS * subject(codec).resolution)
    wrong = {column: "NaN" for column in COLUMNS if np.isnan(figures[column])}
    for column in (*CONSTANT_COLUMNS, "lone element"):
        if figures[column] > limit:
            wrong[column] = "lost"
    if figures["zeros"] > 0.0:
        wrong["zeros"] = "lost"
    for column in ZERO_COLUMNS:
        if figures[column] > POISONED * figures[column.split(": ")[1]] + FLOOR:
            wrong[column] = "poisoned"
    if figures["tiny: its v"] == 0.0:
        wrong["tiny: its v"] = "v = 0"
    return wrong


def _with_smallest_at(m: Array, at: int) -> Array:
    smallest = AT + int(np.argmin(np.abs(m[AT : AT + INSIDE])))
    m = m.copy()
    m[[at, smallest]] = m[[smallest, at]]
    return m


def _worst(exact: Array, m: Array, v: Array) -> float:
    return float(np.max(np.abs(np.stack([m, v]) / exact - 1.0)))


def _beside(
    codec: StateCodec, m: Array, v: Array, at: int, values: tuple[float, float] | None
) -> tuple[float, float, float, float]:
    """(rms of m, largest of m, rms of v) of the others near element `at`, and v there; with `values` in its place."""
    m, v = m.copy(), v.copy()
    if values is not None:
        m[at], v[at] = (float(np.float32(value)) for value in values)
    got_m, got_v = subject(codec).through(m, v)
    others = np.arange(AT, AT + INSIDE)
    others = others[others != at]
    return (
        relative_rms(got_m[others], m[others]),
        max_relative_error(got_m[others], m[others]),
        relative_rms(got_v[others], v[others]),
        float(got_v[at]),
    )
