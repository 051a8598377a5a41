"""Inputs that an encoder of a table of values gets wrong first."""

from __future__ import annotations

from math import inf

import numpy as np

from narrowgauge.formats import Format


def beside(chosen: np.ndarray) -> np.ndarray:
    """The numbers, and one float32 ulp and one float64 ulp to either side of them."""
    with np.errstate(over="ignore"):
        narrow = chosen.astype(np.float32)
    narrow = np.concatenate([np.nextafter(narrow, np.float32(end)) for end in (inf, -inf)]).astype(np.float64)
    return np.concatenate([chosen, narrow, np.nextafter(chosen, inf), np.nextafter(chosen, -inf)])


def hard_values(
    fmt: Format, rng: np.random.Generator, most: int, exponents: tuple[float, float], sample: int
) -> np.ndarray:
    """Up to `most` values and `most` borders with what lies beside them, and `sample` magnitudes of 2^exponents; of
    both signs, finite."""
    finite = fmt.values()[np.isfinite(fmt.values())]
    chosen = np.concatenate([rng.permutation(finite)[:most], rng.permutation(fmt.thresholds)[:most]])
    magnitudes = np.exp2(rng.uniform(*exponents, sample))
    x = np.concatenate([beside(chosen), magnitudes, rng.standard_normal(most), [0.0, 5e-324, 1e-300, 1e300]])
    x = x[np.isfinite(x)]
    return np.concatenate([x, -x])
