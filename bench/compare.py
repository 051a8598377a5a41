"""Two result files beside each other: which rows became faster, slower, or differ by no more than chance.

A row is found again by its suite, the suite's settings and its name. Of A and B are formed

    time ratio       median of B / median of A
    relative ratio   (row / baseline of B) / (row / baseline of A)

The first holds on one machine. In the second the machine's speed cancels, as the baseline was measured in the same run:
it tells whether the code changed where the machines differ. A verdict is `same` unless the ratio leaves 1 by more than

    max(limit, (spread of A + spread of B) / 2)

where a spread is the distance of the quartiles over the median, that of the baseline added (as independent errors are)
for the relative ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.strict_json import plain

TIME, RELATIVE = "time", "relative"
FASTER, SLOWER, SAME = "faster", "slower", "same"
HARDWARE = ("cpu", "cpu_capability", "cores", "threads", "gpu", "system")
VERSIONS = ("narrowgauge", "python", "torch", "triton", "numpy")
LIMIT_PERCENT = 3.0
LONGEST_TEXT = 60
"""Characters of a setting in a warning."""


@dataclass(frozen=True)
class ComparedRow:
    """seconds: medians of A and B. relative_ratio: None where the baselines have other names or are missing.
    noise_percent: what the ratio that is judged may leave 1 by within the spreads."""

    suite: str
    name: str
    seconds: tuple[float, float]
    time_ratio: float
    relative_ratio: float | None
    noise_percent: float
    verdict: str

    def judged(self, by: str) -> float | None:
        """The ratio that the verdict is about."""
        return self.time_ratio if by == TIME else self.relative_ratio


@dataclass(frozen=True)
class ComparedFiles:
    """by: which ratio is judged, "time" or "relative". only_a, only_b: "suite: row" of what one file has alone.
    warnings: what else differs."""

    by: str
    limit_percent: float
    rows: Sequence[ComparedRow]
    only_a: Sequence[str]
    only_b: Sequence[str]
    warnings: Sequence[str]

    def count(self, verdict: str) -> int:
        """How many rows have it."""
        return sum(row.verdict == verdict for row in self.rows)

    def mean_ratio(self) -> float | None:
        """Geometric mean of the ratios that are judged; None where there are none."""
        ratios = [ratio for row in self.rows if (ratio := row.judged(self.by)) is not None]
        return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def slower_than(self, percent: float) -> list[ComparedRow]:
        """Rows whose verdict is slower, by more than so many percent."""
        return [row for row in self.rows if row.verdict == SLOWER and (row.judged(self.by) or 1.0) > 1 + percent / 100]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        content: dict[str, Any] = plain(self)
        content["mean_ratio"] = self.mean_ratio()
        return content


def compare(
    a: Sequence[SuiteResult], b: Sequence[SuiteResult], *, limit_percent: float = LIMIT_PERCENT, by: str | None = None
) -> ComparedFiles:
    """Compares B with A. by: "time" or "relative" (None: time on the same hardware, else relative).

    ValueError for a negative limit, another `by`, or results that have no suite in common.
    """
    if not limit_percent >= 0:
        raise ValueError(f"limit: expected 0 % or more, got {limit_percent}")
    if by not in (None, TIME, RELATIVE):
        raise ValueError(f"by: accepted are {TIME} and {RELATIVE}, got {by!r}")
    pairs = _pairs(a, b)
    if not pairs:
        names = [sorted({result.suite for result in results}) for results in (a, b)]
        raise ValueError(f"the files have no suite in common: {', '.join(names[0])}; {', '.join(names[1])}")
    warnings = list(dict.fromkeys(text for old, new in pairs for text in _differences(old, new)))
    hardware_differs = any(text.startswith("hardware") for text in warnings)
    judged = by or (RELATIVE if hardware_differs else TIME)
    rows, only_a, only_b = [], [], []
    for old, new in pairs:
        theirs, ours = ({row.name: row for row in result.rows} for result in (old, new))
        rows += [
            _compared(old, new, theirs[name], ours[name], judged, limit_percent) for name in theirs if name in ours
        ]
        only_a += [f"{old.suite}: {name}" for name in theirs if name not in ours]
        only_b += [f"{new.suite}: {name}" for name in ours if name not in theirs]
    paired_a, paired_b = ([id(pair[side]) for pair in pairs] for side in (0, 1))
    only_a += [f"{r.suite}: {row.name}" for r in a if id(r) not in paired_a for row in r.rows]
    only_b += [f"{r.suite}: {row.name}" for r in b if id(r) not in paired_b for row in r.rows]
    return ComparedFiles(judged, limit_percent, rows, only_a, only_b, warnings)


def _pairs(a: Sequence[SuiteResult], b: Sequence[SuiteResult]) -> list[tuple[SuiteResult, SuiteResult]]:
    """Results of the same suite, in A's order; of several, those whose settings have most in common."""
    candidates = [(i, j) for i in range(len(a)) for j in range(len(b)) if a[i].suite == b[j].suite]
    partner: dict[int, int] = {}
    # The best match of all comes first, so that nobody takes another one's partner.
    for i, j in sorted(candidates, key=lambda pair: -_alike(a[pair[0]], b[pair[1]])):
        if i not in partner and j not in partner.values():
            partner[i] = j
    return [(a[i], b[partner[i]]) for i in sorted(partner)]


def _alike(a: SuiteResult, b: SuiteResult) -> int:
    """How many settings two results of one suite share."""
    return sum(name in b.settings and b.settings[name] == value for name, value in a.settings.items())


def _compared(a: SuiteResult, b: SuiteResult, old: Row, new: Row, by: str, limit_percent: float) -> ComparedRow:
    time_ratio = new.timing.median / old.timing.median
    comparable = a.baseline == b.baseline and old.ratio > 0 and new.ratio > 0
    relative = new.ratio / old.ratio if comparable else None
    noise = (_spread(a, old, by) + _spread(b, new, by)) / 2
    ratio = time_ratio if by == TIME else relative
    verdict = SAME if ratio is None else _verdict(ratio, max(limit_percent / 100, noise))
    return ComparedRow(
        a.suite, old.name, (old.timing.median, new.timing.median), time_ratio, relative, 100 * noise, verdict
    )


def _spread(result: SuiteResult, row: Row, by: str) -> float:
    # A suite of several shapes has a baseline for each: "4096x4096: clone".
    bases = [other for other in result.rows if other.ratio == 1.0 and result.baseline in other.name]
    if by == TIME or row in bases:
        return row.timing.spread
    return math.hypot(row.timing.spread, max((base.timing.spread for base in bases), default=0.0))


def _verdict(ratio: float, tolerance: float) -> str:
    if ratio > 1 + tolerance:
        return SLOWER
    return FASTER if ratio < 1 / (1 + tolerance) else SAME


def _differences(a: SuiteResult, b: SuiteResult) -> Iterator[str]:
    """What differs between two results of a suite, in words."""
    for kind, names in (("hardware", HARDWARE), ("version", VERSIONS)):
        for name in names:
            yield from _difference(f"{kind}: {name}", getattr(a.machine, name), getattr(b.machine, name))
    names_of_both: Mapping[str, Any] = {**a.settings, **b.settings}
    for name in names_of_both:
        yield from _difference(f"setting of {a.suite}: {name}", a.settings.get(name), b.settings.get(name))
    if a.baseline != b.baseline:
        yield f"{a.suite}: the baseline is {a.baseline} in A, {b.baseline} in B, so ratios to it say nothing"


def _difference(what: str, a: object, b: object) -> Iterator[str]:
    if a != b:
        yield f"{what} is {_text(a)} in A, {_text(b)} in B"


def _text(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
