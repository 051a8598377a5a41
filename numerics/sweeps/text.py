"""A sweep in words and as text tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import Choice, SweepRow, clipped_db

BUDGETS = (4.5, 6.5, 8.5, 10.5, 16.5)
"""Bits per value, scales included, at which a choice is told."""
SLACK = 0.05
"""What a scheme may exceed a budget by: the scales of whole rows and tensors."""
NAMED = 3
"""Tensors that a sentence names."""
NOTABLE_UNDERFLOW, NOTABLE_CLIPPING = 0.01, 0.001

Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Heads (of columns that are flush left with a "<" before them) and rows."""

COLUMNS = (
    ("cosine_similarity", "cosine", 4),
    ("gain", "gain", 4),
    ("bias", "bias/rms", 2),
    ("relative_p99", "rel. error p99", 2),
    ("effective_bits", "effective bits", 3),
)
"""Metric, head, significant digits of the further columns of the table."""


def decibels(value: float) -> str:
    """An SQNR to a tenth; "exact" for a copy."""
    if value == math.inf:
        return "exact"
    return f"{value:.1f}" if math.isfinite(value) else str(value)


def percent(share: float) -> str:
    """A share in percent, without the sign: two figures, so that little is told from nothing."""
    if not math.isfinite(share):
        return str(share)
    value = 100.0 * share
    if value == 0.0:
        return "0"
    return f"{value:.1f}" if value >= 0.1 else f"{value:.1g}"


def significant(value: float, digits: int = 3) -> str:
    """A number to some significant digits, thousands in full; empty for one that does not apply."""
    if math.isnan(value):
        return ""
    if 10.0**digits <= abs(value) < 1e7:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}"


def plural(count: int, noun: str) -> str:
    """The count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def summary(result: SweepResult) -> list[str]:
    """The result in sentences."""
    lines = [
        f"{plural(len(result.tensors), 'tensor')} under {plural(len(result.schemes), 'scheme')}: "
        f"{plural(len(result.rows), 'measurement')}"
        + (f", left out: {len(result.skipped)}." if result.skipped else ".")
    ]
    lines += [f"Up to {budget:g} bits per value: {_shares(choices)}." for budget, choices in budget_choices(result)]
    lines.append(_target_sentence(result))
    lines.append(_hardest(result))
    return [*lines, *_hazards(result), *result.notes]


def budget_choices(result: SweepResult) -> list[tuple[float, dict[str, Choice]]]:
    """(bits, best scheme of each tensor within them) for each budget that changes the choice."""
    steps: list[tuple[float, dict[str, Choice]]] = []
    for budget in BUDGETS:
        choices = result.best(max_bits=budget + SLACK)
        if choices and (not steps or choices != steps[-1][1]):
            steps.append((budget, choices))
    return steps


def _shares(choices: dict[str, Choice]) -> str:
    """Which scheme for how many tensors, and for which where they are few."""
    by_scheme: dict[str, list[Choice]] = {}
    for choice in choices.values():
        by_scheme.setdefault(choice.scheme, []).append(choice)
    parts = []
    for scheme, chosen in sorted(by_scheme.items(), key=lambda item: -len(item[1])):
        low, high = (pick(choice.sqnr_db for choice in chosen) for pick in (min, max))
        span = f"{low:.1f} dB" if high - low < 0.05 else f"{low:.1f} to {high:.1f} dB"
        if len(chosen) == len(choices):
            count = "all" if len(choices) > 1 else chosen[0].name
        else:
            count = _names([choice.name for choice in chosen], len(chosen))
        parts.append(f"{scheme} for {count} ({span})")
    return "; ".join(parts)


def _names(names: Sequence[str], count: int) -> str:
    return ", ".join(names) if count <= NAMED else f"{count} tensors"


def _target_sentence(result: SweepResult) -> str:
    target = result.target_db
    choices = result.cheapest()
    good = {name: choice for name, choice in choices.items() if choice.reaches}
    bad = [name for name, choice in choices.items() if not choice.reaches]
    error = 100.0 * 10.0 ** (-target / 20.0)
    text = f"For {target:g} dB (an error of {error:.2g} % of the rms) the fewest bits: {_shares(good)}" if good else ""
    if bad:
        text += ("; no" if text else "No") + f" scheme reaches {target:g} dB for {_names(bad, len(bad))}"
    return text + "."


def _hardest(result: SweepResult) -> str:
    names = result.worst_first()[:NAMED]
    means = []
    for name in names:
        values = [clipped_db(row.sqnr_db) for row in result.rows if row.tensor == name]
        means.append(f"{name} ({fmean(values):.1f} dB)")
    return f"Hardest, by mean SQNR over the schemes: {', '.join(means)}."


def _hazards(result: SweepResult) -> list[str]:
    lines = []
    for metric, limit, words in (
        ("underflow", NOTABLE_UNDERFLOW, "turned to zero"),
        ("overflow_clipped", NOTABLE_CLIPPING, "clipped"),
    ):
        rows = [row for row in result.rows if metric in row.metrics and row.metric(metric) > limit]
        if rows:
            worst = max(rows, key=lambda row: row.metric(metric))
            lines.append(
                f"Elements {words}: more than {100.0 * limit:g} % in {plural(len(rows), 'measurement')}, most in "
                f"{worst.tensor} under {worst.scheme} ({percent(worst.metric(metric))} %)."
            )
    return lines


def sorted_rows(result: SweepResult) -> list[SweepRow]:
    """Rows by tensor, worst first, and within one by SQNR, best first."""
    place = {name: index for index, name in enumerate(result.worst_first())}
    return sorted(result.rows, key=lambda row: (place[row.tensor], -clipped_db(row.sqnr_db), row.bits))


def table_cells(result: SweepResult, max_bits: float | None = None) -> Cells:
    """The long table: a line for each row, `*` at each tensor's best within `max_bits`."""
    best = result.best(max_bits=max_bits)
    extra = [column for column in COLUMNS if column[0] in result.metric_names]
    heads = ("<tensor", "<scheme", "<", "bits", "SQNR dB", "underflow %", "clipped %", *(head for _, head, _ in extra))
    lines, previous = [], ""
    for row in sorted_rows(result):
        is_best = row.tensor in best and best[row.tensor].scheme == row.scheme
        cells = (
            "" if row.tensor == previous else row.tensor,
            row.scheme,
            "*" if is_best else "",
            f"{row.bits:.2f}",
            decibels(row.sqnr_db),
            percent(row.metric("underflow")),
            percent(row.metric("overflow_clipped")),
        )
        lines.append((*cells, *(significant(row.metric(name), digits) for name, _, digits in extra)))
        previous = row.tensor
    return heads, lines


def schemes_by_bits(result: SweepResult) -> list[str]:
    """Texts of the schemes that have rows, fewest bits per value first."""
    present = {row.scheme for row in result.rows}
    return sorted((entry.text for entry in result.schemes if entry.text in present), key=result.bits)


def matrix_cells(result: SweepResult, metric: str = "sqnr_db") -> Cells:
    """The wide table of one metric. ValueError for a metric that the rows do not hold."""
    if metric not in result.metric_names:
        raise ValueError(f"metric: got {metric!r}, accepted: {', '.join(result.metric_names)}")
    schemes = schemes_by_bits(result)
    lines = []
    for tensor in result.worst_first():
        found = [result.row(tensor, scheme) for scheme in schemes]
        texts = ["" if row is None else _cell(row.metric(metric), metric) for row in found]
        lines.append((tensor, *texts))
    return ("<tensor", *schemes), lines


def _cell(value: float, metric: str) -> str:
    return decibels(value) if metric == "sqnr_db" else significant(value)


def align(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as lines of equal columns."""
    lines = [[head.removeprefix("<") for head in heads], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    is_left = [head.startswith("<") for head in heads]
    padded = [
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_left, strict=True)
        ]
        for line in lines
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
