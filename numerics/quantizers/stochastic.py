"""Stochastic rounding: neighbours, frequencies, means, seeds and independence, and what their faults look like.

A probe is a constant x = lower + ν · gap, drawn n times (once for each element). With p̂ the share that went to the
neighbour away from zero, p̂ has to be consistent with some p in [ν - 2^-N, ν + 2^-N], N the number of random bits: the
Chernoff bound n · KL(p̂ ‖ p) <= ln(2 / δ) (Hoeffding 1963, theorem 1, of which |p̂ - p| <= √(ln(2 / δ) / 2n) is the
weaker form) is what makes rare events, such as ν = 2^-10, worth testing. δ = 1e-9 for each probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from narrowgauge.formats import Scheme
from narrowgauge.numerics.quantizers.call import Matrix, Subject
from narrowgauge.numerics.quantizers.cases import arranged, unit_anchor
from narrowgauge.numerics.quantizers.explain import number
from narrowgauge.numerics.quantizers.grid import element_factors, levels, neighbours, spacing

DELTA = 1e-9
FRACTIONS = (
    0.0,
    *(2.0**-k for k in (10, 9, 8, 7, 5, 3)),
    0.25,
    0.375,
    0.5,
    0.625,
    0.75,
    0.875,
    1 - 2.0**-4,
    1 - 2.0**-7,
)
"""Powers of two tell how many random bits there are."""

BY_FREQUENCY = ("SR keeps exact values", "SR gives a neighbour", "SR frequencies", "SR is unbiased")
"""Properties that fail together when the probabilities are wrong."""


@dataclass(frozen=True)
class Probe:
    """fraction: exact share of the gap. count draws, of which `away` went to the outer neighbour, `outside` to none."""

    value: float
    fraction: float
    count: int
    away: int
    outside: int
    outside_value: float


@dataclass(frozen=True)
class Broken:
    """One property that does not hold: its name, a sentence, the fault's kind, and the input."""

    property: str
    message: str
    kind: str
    x: Matrix


def draw_probes(subject: Subject, count: int, seed: int) -> list[Probe]:
    """Frequencies at every fraction, in the subnormal, a normal and the last interval and at negative values."""
    probes = []
    for index, value in enumerate(_probe_values(subject.terms.scheme)):
        for x in arranged(np.full(count, value, dtype=np.float32), subject.terms.scheme):
            probes.append(_one_probe(subject, x, value, seed + index))
    return probes


def _probe_values(scheme: Scheme) -> Iterator[float]:
    element = scheme.element
    table = levels(element)
    at = [int(np.searchsorted(table, 0.0)), int(np.searchsorted(table, min(1.0, element.max / 2))), len(table) - 2]
    for sign in (1.0, -1.0):
        for low in dict.fromkeys(at):
            for fraction in FRACTIONS:
                value = float(np.float32(table[low] + fraction * (table[low + 1] - table[low])))
                if sign > 0 or (element.signed and fraction in (0.0, 0.125, 0.75) and -value >= element.min):
                    yield sign * value


def _one_probe(subject: Subject, x: Matrix, value: float, seed: int) -> Probe:
    scheme = subject.terms.scheme
    scale = scheme.static if scheme.static is not None else unit_anchor(scheme)[1]
    factors = element_factors(x, scheme)
    # Pairs with an exponent of their own may have a smaller scale, at which the value is another probe.
    drawn = (x == np.float32(value * np.float32(scale))) & (factors == np.float32(scale))
    with np.errstate(all="ignore"):
        result = (subject.call(x, seed=seed).values / factors)[drawn]
    y = np.array([value])
    below, above = (float(side[0]) for side in neighbours(y, scheme.element))
    inner, outer = (below, above) if value >= 0 else (above, below)
    fraction = 0.0 if inner == outer else (value - inner) / (outer - inner)
    tolerance = 2.0**-16 * float(spacing(y, scheme.element)[0])
    is_inner, is_outer = np.abs(result - inner) <= tolerance, np.abs(result - outer) <= tolerance
    stray = result[~(is_inner | is_outer)]
    away = 0 if inner == outer else int(is_outer.sum())
    return Probe(value, fraction, result.size, away, stray.size, float(stray[0]) if stray.size else math.nan)


def chernoff(count: int, share: float, probability: float) -> float:
    """n · KL(p̂ ‖ p) in nats; infinite where p̂ is impossible under p."""
    total = 0.0
    for part, chance in ((share, probability), (1.0 - share, 1.0 - probability)):
        if part > 0.0:
            if chance <= 0.0:
                return math.inf
            total += part * math.log(part / chance)
    return count * max(total, 0.0)


def is_consistent(probe: Probe, probability: float, slack: float) -> bool:
    """Whether the draws may come from a probability within `slack` of this one."""
    if not probe.count:
        return True
    share = probe.away / probe.count
    nearest = min(max(share, probability - slack), probability + slack)
    return chernoff(probe.count, share, min(max(nearest, 0.0), 1.0)) <= math.log(2.0 / DELTA)


def judge_probes(probes: list[Probe], random_bits: int) -> list[Broken]:
    """Exact values that moved, results that are no neighbour, frequencies that are off."""
    broken = []
    moved = [p for p in probes if p.fraction == 0.0 and p.outside]
    stray = [p for p in probes if p.fraction != 0.0 and p.outside]
    for name, found, text in (
        ("SR keeps exact values", moved, "is a value of the format and moved"),
        ("SR gives a neighbour", stray, "gave what is neither neighbour"),
    ):
        if found:
            p = found[0]
            broken.append(
                Broken(
                    name,
                    f"{number(p.value)} {text} in {p.outside} of {p.count} draws, for example to "
                    f"{number(p.outside_value)}",
                    "SR moves exact values" if found is moved else "SR leaves the two neighbours",
                    np.array([[p.value]], dtype=np.float32),
                )
            )
    slack = 2.0**-random_bits
    off = [p for p in probes if p.fraction != 0.0 and not is_consistent(p, p.fraction, slack)]
    if off:
        p = max(off, key=lambda p: chernoff(p.count, p.away / p.count, p.fraction))
        bound = math.sqrt(math.log(2.0 / DELTA) / (2.0 * p.count))
        broken.append(
            Broken(
                "SR frequencies",
                f"{number(p.value)} lies {p.fraction:.6g} of the way to its outer neighbour, but went there in "
                f"{p.away} of {p.count} draws ({p.away / p.count:.6g}; Hoeffding ± {bound:.2g}, Chernoff exceeded); "
                f"{len(off)} of {len(probes)} probes are off",
                "SR frequencies wrong",
                np.array([[p.value]], dtype=np.float32),
            )
        )
    return broken


def frequency_fault(probes: list[Probe], random_bits: int) -> str | None:
    """The name of the curve ν → P(away) that all probes are consistent with, if it is one of a known fault."""
    curves: list[tuple[str, Callable[[float], float]]] = [
        ("biased SR: half a unit added before the random bits", lambda v: min(1.0, v + 0.5)),
        ("no stochastic rounding: truncation", lambda v: 0.0),
        # Where ties go is another question.
        ("no stochastic rounding: rounding to nearest", lambda v: math.nan if v == 0.5 else float(v > 0.5)),
        ("no stochastic rounding: always away from zero", lambda v: float(v > 0.0)),
        ("SR with probability 1/2 whatever the distance", lambda v: 0.5 if v > 0 else 0.0),
        ("SR with the probabilities exchanged", lambda v: 1.0 - v if v > 0 else 0.0),
    ]
    for bits in range(1, random_bits):
        curves += _coarse_curves(bits)
    used = [p for p in probes if p.fraction != 0.0]
    exact = [p for p in probes if p.fraction == 0.0]
    if all(is_consistent(p, p.fraction, 2.0**-random_bits) for p in used) and not any(p.outside for p in exact):
        return None
    for name, curve in curves:
        moves = curve(0.0) > 0.0
        if moves != any(p.outside for p in exact):
            continue
        if moves and not all(_share_moved(p, curve(0.0)) for p in exact):
            continue
        if all(_fits(p, curve(p.fraction)) for p in used):
            return name
    return None


def _coarse_curves(bits: int) -> list[tuple[str, Callable[[float], float]]]:
    """Probabilities that are multiples of 2^-bits."""
    size = 2.0**bits
    few = f"SR with too few random bits: {bits}"
    low = f"SR moves exact values: the threshold is one of 2^{bits} too low"
    return [
        (few, lambda v: math.floor(v * size) / size),
        (few, lambda v: math.floor(v * size + 0.5) / size),
        (low, lambda v: min(1.0, (math.floor(v * size) + 1) / size)),
    ]


def _share_moved(probe: Probe, probability: float) -> bool:
    moved = Probe(probe.value, 0.0, probe.count, probe.outside, 0, math.nan)
    return is_consistent(moved, probability, 0.0) or probe.outside == 0


def _fits(probe: Probe, probability: float) -> bool:
    """Draws that left the interval outwards count as away; NaN leaves the probability open."""
    if math.isnan(probability):
        return True
    beyond = Probe(probe.value, probe.fraction, probe.count, probe.away + probe.outside, 0, math.nan)
    return is_consistent(beyond, probability, 0.0)
