"""Stochastic rounding over many elements: mean, seeds, independence of neighbours."""

from __future__ import annotations

import math

import numpy as np

from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.call import Matrix, Subject
from narrowgauge.numerics.quantizers.grid import element_factors, neighbours, spacing
from narrowgauge.numerics.quantizers.stochastic import DELTA, Broken, chernoff

MEAN_LIMIT = 6.0
"""Standard deviations that the mean error may be off; beyond with probability 2e-9."""


def check_mean(subject: Subject, x: Matrix, seed: int, random_bits: int) -> Broken | None:
    """Σ (q - x) over many different x, in standard deviations of ideal rounding."""
    scheme = subject.terms.scheme
    factors = element_factors(x, scheme)
    y = x.astype(np.float64) / factors
    inside = (np.abs(y) <= scheme.element.max) & (y >= scheme.element.min)
    below, above = neighbours(y, scheme.element)
    gap = above - below
    fraction = np.where(gap > 0, (y - below) / np.where(gap > 0, gap, 1.0), 0.0)
    error = (subject.call(x, seed=seed).values / factors - y) * np.where(y < 0, -1.0, 1.0)
    unit = spacing(y, scheme.element)
    variance = float(np.sum((fraction * (1 - fraction) * np.square(gap / unit))[inside]))
    count = int(inside.sum())
    total = float(np.sum((error / unit)[inside]))
    allowed = MEAN_LIMIT * math.sqrt(variance) + count * (2.0**-random_bits + 2.0**-14)
    if not variance or abs(total) <= allowed:
        return None
    return Broken(
        "SR is unbiased",
        f"the mean error of {count} roundings is {total / count:+.3g} ulp away from zero, "
        f"{total / math.sqrt(variance):+.1f} standard deviations (accepted: ± {MEAN_LIMIT:g})",
        "biased SR",
        x[:1, :8],
    )


def check_seeds(subject: Subject, x: Matrix, seed: int) -> list[Broken]:
    """One seed gives one result, other seeds give others."""
    name, broken = "SR seeds", []
    first, again = (subject.call(x, seed=seed).values for _ in range(2))
    if not np.array_equal(first, again, equal_nan=True):
        differ = int(np.count_nonzero(first != again))
        text = f"two calls with seed {seed} differ in {differ} of {x.size} elements"
        return [Broken(name, text, "SR not reproducible: the seed does not determine the result", x[:1, :8])]
    others = [subject.call(x, seed=other).values for other in (seed + 1, seed + 2, seed + 2**32, 2**31 + seed)]
    same = [np.array_equal(first, other, equal_nan=True) for other in others]
    if all(same):
        broken.append(Broken(name, "different seeds give the same result", "SR ignores its seed", x[:1, :8]))
    elif any(same):
        which = ("seed + 1", "seed + 2", "seed + 2^32", "seed + 2^31")[same.index(True)]
        text = f"seed {seed} and {which} give the same result"
        broken.append(Broken(name, text, "SR uses only some bits of its seed", x[:1, :8]))
    return broken


def check_independence(subject: Subject, x: Matrix, seed: int) -> Broken | None:
    """Of half-way values, neighbouring elements go the same way in half of the cases. x: one value, and anchors."""
    numbers, counts = np.unique(x, return_counts=True)
    values = subject.call(x, seed=seed).values
    factors = element_factors(x, subject.terms.scheme)
    drawn = (x == numbers[np.argmax(counts)]) & (factors == np.max(factors))
    if not drawn.any():
        return None
    up = np.where(drawn, np.abs(values), np.nan)
    up = np.where(np.isnan(up), np.nan, (up > np.nanmean(up)).astype(np.float64))
    found = _correlation(up)
    if found is None:
        return None
    kind, share, pairs = found
    text = f"elements half-way between two values go the same way in {share:.1%} of {pairs} pairs, expected 50 %"
    return Broken("SR elements are independent", text, kind, x[:2, :8])


def _correlation(up: FloatArray) -> tuple[str, float, int] | None:
    flat = up.reshape(-1)
    steps_by_name = {"across": up[:, 1:] - up[:, :-1], "down": up[1:] - up[:-1]}
    for lag in (4, 8, 16, 32, 64, 128, 256):
        steps_by_name[f"lag {lag}"] = flat[lag:] - flat[:-lag] if flat.size > 2 * lag else np.zeros(0)
    shares: dict[str, tuple[float, int]] = {}
    for name, steps in steps_by_name.items():
        known = steps[~np.isnan(steps)]
        shares[name] = (float(np.mean(known == 0)) if known.size else 0.5, known.size)
    for name, (share, pairs) in shares.items():
        if pairs > 100 and chernoff(pairs, share, 0.5) > math.log(2.0 / DELTA) + 2.0:
            return _reuse_name(name, shares), share, pairs
    return None


def _reuse_name(name: str, shares: dict[str, tuple[float, int]]) -> str:
    across, down = shares["across"][0] > 0.99, shares["down"][0] > 0.99
    if across and down:
        return "SR reuses one random number for the whole tensor"
    if across:
        return "SR reuses one random number per row"
    if down:
        return "SR reuses the same random numbers in every row"
    if name == "across":
        return "SR reuses one random number for neighbouring elements of a row (a tile)"
    if name == "down":
        return "SR reuses one random number for neighbouring rows (a tile)"
    return f"SR random numbers repeat: period {name.removeprefix('lag ')}"
