"""Is ours at least as good as every peer? Computed for each column of each table; known reasons are data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from narrowgauge.bench.optim_quality.table import Better, Role, Subject, Table, Verdict

MORE_BYTES = 1.25
"""A peer that takes so many times ours' bytes is another bargain."""

REASONS: Mapping[tuple[str, str], str] = {
    ("update", "FlashOptim"): "four times as many scales: one for 32 elements; it falls behind where scales differ",
    ("update", "FlashOptim, float32 scales"): "four times as many scales: one for 32 elements; it falls behind where "
    "scales differ",
    ("moments", "FlashOptim"): "one scale for 32 elements of m, not 128; its v is worse",
    ("moments", "FlashOptim, float32 scales"): "one scale for 32 elements of m, not 128; its v is worse",
    ("gradients", "FlashOptim"): "one scale for 32 elements of m, until its float16 scales underflow",
    ("gradients", "FlashOptim, float32 scales"): "one scale for 32 elements of m",
}
"""(table, peer) → why it is ahead there."""


def verdicts(tables: Sequence[Table], subjects: Sequence[Subject]) -> list[Verdict]:
    """One for each column of each table that says which figure is better and has the row of ours."""
    sizes = {subject.name: subject.bytes_per_parameter for subject in subjects}
    peers = {subject.name for subject in subjects if subject.role is Role.PEER}
    found = []
    for table in tables:
        rows = {name: figures for name, figures in table.rows.items() if name in peers}
        if table.better is not Better.NEITHER and table.ours in table.rows and rows:
            found += [_verdict(table, column, rows, sizes) for column in table.columns]
    return found


def _verdict(
    table: Table, column: str, peers: Mapping[str, Mapping[str, float]], sizes: Mapping[str, float]
) -> Verdict:
    own = table.rows[table.ours][column]
    figures = {name: row[column] for name, row in peers.items()}
    dearer = [name for name in figures if sizes[name] >= MORE_BYTES * sizes[table.ours]]
    fair = [name for name in figures if name not in dearer] or dearer
    best = min(fair, key=lambda name: badness(figures[name], table.better))
    ahead = {name: ratio for name, figure in figures.items() if (ratio := lead(figure, own, table)) is not None}
    reasons = {name: _reason(table.key, name, dearer, sizes) for name in ahead}
    return Verdict(table.key, column, own, best, figures[best], ahead, [n for n in dearer if n in ahead], reasons)


def badness(figure: float, better: Better) -> float:
    """How bad a figure is, 0 for perfect; NaN is as bad as it gets."""
    if math.isnan(figure):
        return math.inf
    if better is Better.SMALLER:
        return figure
    return abs(math.log(figure)) if figure > 0.0 else math.inf


def lead(peer: float, ours: float, table: Table) -> float | None:
    """By what factor the peer's badness is the smaller one; None if it is not, or only by chance."""
    theirs, own = (badness(figure, table.better) for figure in (peer, ours))
    chance = table.tolerance if table.better is Better.NEARER_ONE else table.tolerance * theirs
    if own <= theirs + chance:
        return None
    return own / theirs if theirs > 0.0 else math.inf


def _reason(key: str, name: str, dearer: Sequence[str], sizes: Mapping[str, float]) -> str:
    """What a peer that is ahead pays for it, where that is known."""
    if name in dearer:
        return f"{sizes[name]:.3g} bytes a parameter"
    return REASONS.get((key, name), "not explained")
