"""Runs single properties, makes failing inputs small, and turns what was found into failures of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from narrowgauge.formats.tiles import tile_sides
from narrowgauge.numerics.cases import Distribution, distribution
from narrowgauge.numerics.check_report import Failure
from narrowgauge.numerics.quantizers.call import CallFailed, Matrix, Observation, Subject
from narrowgauge.numerics.quantizers.cases import arranged
from narrowgauge.numerics.quantizers.explain import explain, matrix_text
from narrowgauge.numerics.quantizers.faults import Diagnosis
from narrowgauge.numerics.quantizers.grid import levels
from narrowgauge.numerics.quantizers.properties import Property
from narrowgauge.numerics.quantizers.shrink import shrink
from narrowgauge.numerics.quantizers.stochastic import BY_FREQUENCY, draw_probes, frequency_fault, judge_probes
from narrowgauge.numerics.quantizers.streams import check_independence, check_mean, check_seeds

_RAISES = "the function fails on this input"


@dataclass(frozen=True, eq=False)
class Finding:
    """A property that does not hold. kind: the fault's name if no diagnosis has a better one, `is_named` if none
    may."""

    property: str
    message: str
    kind: str
    x: Matrix
    is_named: bool = False


def run_values(subject: Subject, name: str, dtype: str, matrices: Sequence[Matrix]) -> Iterator[Finding]:
    """At most one finding: the failure with the fewest elements, made small."""
    failed: Observation | None = None
    wrong = scales = total = 0
    for x in matrices:
        try:
            seen = subject.observe(name, x, dtype=dtype)
        except CallFailed as error:
            yield _raised(subject, name, dtype, x, error)
            return
        total += x.size
        wrong += int(np.count_nonzero(seen.verdict.is_wrong))
        scales += int(np.count_nonzero(seen.verdict.wrong_scales))
        if not seen.verdict.ok and (failed is None or seen.x.size < failed.x.size):
            failed = seen
    if failed is not None:
        small = _smaller(subject, failed, dtype)
        counts = [f"{wrong} of {total} elements"] if wrong else []
        counts += [f"{scales} scales"] if scales else []
        message = f"{' and '.join(counts)} are wrong; {explain(subject.terms, small)}; input {matrix_text(small.x)}"
        yield Finding(name, message, min(symptoms(small)), small.x)


def symptoms(seen: Observation) -> set[str]:
    """What kinds of wrong outcomes a call shows; shrinking keeps one of the first wrong element's."""
    verdict, reading = seen.verdict, seen.reading
    found = {"wrong scale"} if verdict.wrong_scales.any() else set()
    mask = verdict.is_wrong
    if not mask.any():
        return found
    actual, expected, x = reading.values[mask], verdict.expected[mask], seen.x[mask].astype(np.float64)
    with np.errstate(invalid="ignore"):
        lost = ~np.isfinite(x) & np.isfinite(actual)
        masks = {
            "NaN or infinity lost": lost,
            "NaN created": np.isnan(actual) & np.isfinite(x) & ~np.isnan(expected),
            "infinity created": np.isinf(actual) & np.isfinite(expected),
            "wrong sign of zero": (actual == 0) & (expected == 0),
            "zero instead of a value": (actual == 0) & (expected != 0) & ~lost,
            "value instead of zero": (actual != 0) & (expected == 0) & np.isfinite(actual),
            "other codes or scale in a group that is not finite": np.isnan(actual) & np.isnan(expected),
        }
    found |= {name for name, where in masks.items() if where.any()}
    if not np.all(np.logical_or.reduce(list(masks.values()))):
        found.add("wrong value")
    return found


def _smaller(subject: Subject, seen: Observation, dtype: str) -> Observation:
    """The observation of a small input with one of the same symptoms; the first if the fault is gone when repeated."""
    wanted = symptoms(seen)

    def look(x: Matrix) -> Observation | None:
        try:
            return subject.look(seen.property, x, dtype=dtype)
        except CallFailed:
            return None

    def fails(x: Matrix) -> bool:
        found = look(_as_held(x, dtype))
        return found is not None and bool(symptoms(found) & wanted)

    start = _around_first(seen, subject)
    if not fails(start):
        start = seen.x
        if not fails(start):
            return seen
    small = look(_as_held(shrink(start, fails), dtype))
    return seen if small is None or small.verdict.ok else small


def _as_held(x: Matrix, dtype: str) -> Matrix:
    """Numbers that the dtype holds."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return x


def _around_first(seen: Observation, subject: Subject) -> Matrix:
    """The groups of the first wrong element alone; one group up and left of it where there is one."""
    mask = seen.verdict.is_wrong
    tile = subject.terms.scheme.tile
    height, width = tile_sides(tile, seen.x.shape)
    if mask.any():
        row, col = (int(i) for i in np.argwhere(mask)[0])
    else:
        at = np.argwhere(seen.verdict.wrong_scales)[0]
        row, col = int(at[0]) * height, int(at[1]) * tile_sides(subject.terms.scheme.factor_tile, seen.x.shape)[1]
    if subject.terms.is_cast:
        return seen.x[row : row + 1, col : col + 1]
    top, left = row // height * height, col // width * width
    return np.ascontiguousarray(seen.x[top : top + height, left : left + width])


def _raised(subject: Subject, name: str, dtype: str, x: Matrix, error: CallFailed) -> Finding:
    def fails(y: Matrix) -> bool:
        try:
            subject.call(_as_held(y, dtype), dtype=dtype)
        except CallFailed:
            return True
        return False

    small = shrink(x, fails) if fails(x) else x
    kind = "writes to its input" if "wrote" in str(error) else _RAISES
    return Finding(name, f"the function {error}; input {matrix_text(small)}", kind, small, is_named=True)


def run_relation(subject: Subject, relation: Property, rng: np.random.Generator) -> Iterator[Finding]:
    """At most one finding, on a small input."""
    x = relation.inputs(subject.terms.scheme, rng)
    try:
        found = relation.check(subject, x)
    except CallFailed as error:
        yield Finding(relation.name, f"the function {error}", relation.kind, x[:1, :8], is_named=True)
        return
    if found is None:
        return

    def fails(y: Matrix) -> bool:
        try:
            return relation.check(subject, y) is not None
        except CallFailed:
            return False

    small = shrink(x, fails, trials=150)
    message = relation.check(subject, small) or found
    yield Finding(relation.name, f"{message}; input {matrix_text(small)}", relation.kind, small)


def stochastic_findings(subject: Subject, budget: int, seed: int, random_bits: int) -> Iterator[Finding]:
    """Frequencies, mean, seeds and independence of stochastic rounding."""
    scheme = subject.terms.scheme
    rng = np.random.default_rng(seed)
    spread = distribution(Distribution.NORMAL, max(64, budget // 4), rng) * np.float32(scheme.element.max / 4)
    matrices = arranged(spread if scheme.element.signed else np.abs(spread), scheme)
    if not matrices:
        return
    x = matrices[0]
    try:
        yield from _named(subject, x, budget, seed, random_bits)
    except CallFailed as error:
        yield Finding("SR frequencies", f"the function {error}", _RAISES, x[:1, :8], is_named=True)


def _named(subject: Subject, x: Matrix, budget: int, seed: int, random_bits: int) -> Iterator[Finding]:
    """All findings on stochastic rounding. A curve of frequencies that has a name explains the others too; where it has
    none, elements that share random numbers are what makes the frequencies wrong."""
    scheme = subject.terms.scheme
    probes = draw_probes(subject, max(64, budget // 4), seed)
    curve = frequency_fault(probes, random_bits)
    broken = judge_probes(probes, random_bits)
    mean = check_mean(subject, x, seed, random_bits)
    broken += [mean] if mean is not None else []
    if curve is None or not curve.startswith("no stochastic rounding"):
        broken += check_seeds(subject, x, seed)
    shared = None
    if curve is None:
        table = levels(scheme.element)
        at = min(int(np.searchsorted(table, min(1.0, scheme.element.max / 2))), len(table) - 2)
        half = np.float32((table[at] + table[at + 1]) / 2)
        shared = check_independence(subject, arranged(np.full(4096, half, dtype=np.float32), scheme)[0], seed)
        broken += [shared] if shared is not None else []
    better = curve or (shared.kind if shared is not None else None)
    for item in broken:
        kind = better if better is not None and item.property in BY_FREQUENCY else item.kind
        yield Finding(item.property, item.message, kind, item.x, is_named=True)


def describe(finding: Finding, diagnoses: Sequence[Diagnosis], stochastic: str | None) -> Failure:
    """The failure of a report: the diagnosis that explains this property, or the finding's own kind. stochastic: what
    is wrong with the stochastic rounding, which no model of single outputs reproduces."""
    chosen = None
    if not finding.is_named and diagnoses:
        chosen = next((one for one in diagnoses if finding.property in one.properties), diagnoses[0])
    kind = finding.kind if chosen is None or chosen.kind is None else chosen.kind
    if stochastic is not None and not finding.is_named and (chosen is None or chosen.kind is None):
        kind, chosen = stochastic, None
    text = finding.message + (f"; {chosen}" if chosen is not None else "")
    example: dict[str, Any] = {"x": [[_plain(float(v)) for v in row] for row in finding.x[:64, :64]]}
    return Failure(finding.property, text, kind, example)


def _plain(value: float) -> float | str:
    return value if np.isfinite(value) else str(value)
