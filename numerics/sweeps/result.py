"""What a sweep found, and the questions that one asks of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from narrowgauge.numerics.sweeps.json_text import KIND, VERSION, check_kind, fields_of, plain
from narrowgauge.numerics.sweeps.rows import (
    TARGET_DB,
    Choice,
    SchemeSummary,
    Series,
    Skipped,
    SweepRow,
    TensorSummary,
    choice_of,
    clipped_db,
)

_GROUPS: dict[str, Callable[[SweepRow], str]] = {
    "tensor": lambda row: row.tensor,
    "role": lambda row: row.role,
    "all": lambda row: "all",
}


@dataclass(frozen=True)
class SweepResult:
    """Formats × granularities × tensors, measured. `str()` is the table."""

    rows: tuple[SweepRow, ...]
    tensors: tuple[TensorSummary, ...]
    schemes: tuple[SchemeSummary, ...]
    skipped: tuple[Skipped, ...] = ()
    series: tuple[Series, ...] = ()
    seed: int = 0
    target_db: float = TARGET_DB
    title: str = "Number formats compared"
    notes: tuple[str, ...] = ()

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], SweepRow]:
        return {(row.tensor, row.scheme): row for row in self.rows}

    @cached_property
    def _by_tensor(self) -> dict[str, list[SweepRow]]:
        table: dict[str, list[SweepRow]] = {}
        for row in self.rows:
            table.setdefault(row.tensor, []).append(row)
        return table

    def row(self, tensor: str, scheme: str) -> SweepRow | None:
        """The row of this tensor and scheme text; None where it was skipped."""
        return self._by_key.get((tensor, scheme))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that rows hold."""
        return tuple(self.rows[0].metrics) if self.rows else ()

    def bits(self, scheme: str) -> float:
        """Mean bits per value of a scheme over the tensors."""
        return fmean(row.bits for row in self.rows if row.scheme == scheme)

    def worst_first(self) -> tuple[str, ...]:
        """Tensor names, those with the lowest mean SQNR over all schemes first."""
        means = {name: fmean(clipped_db(row.sqnr_db) for row in rows) for name, rows in self._by_tensor.items()}
        return tuple(sorted(means, key=lambda name: means[name]))

    def best(self, per: str = "tensor", max_bits: float | None = None) -> dict[str, Choice]:
        """The scheme of highest SQNR for each tensor; with per="role" that of highest mean SQNR for each role,
        with per="all" for all tensors together. Of equals, the one with fewer bits.

        max_bits: only schemes that store at most so many bits per value, scales included. What no scheme
        satisfies is not in the result. ValueError for another `per`.
        """
        chosen = {}
        for name, candidates in self._candidates(per, max_bits).items():
            top = max(candidates, key=lambda choice: (round(choice.sqnr_db, 6), -choice.bits))
            chosen[name] = top
        return chosen

    def cheapest(self, target_db: float | None = None, per: str = "tensor") -> dict[str, Choice]:
        """The scheme with the fewest bits per value whose lowest SQNR is at least `target_db` (default: the
        result's own); where none is, the one of highest SQNR, with `reaches` False. `per` as in `best`."""
        target = self.target_db if target_db is None else target_db
        chosen = {}
        for name, candidates in self._candidates(per, None).items():
            good = [choice for choice in candidates if choice.lowest_db >= target]
            if good:
                chosen[name] = min(good, key=lambda choice: (round(choice.bits, 2), -choice.sqnr_db))
            else:
                top = max(candidates, key=lambda choice: (round(choice.lowest_db, 6), -choice.bits))
                chosen[name] = replace(top, reaches=False)
        return chosen

    def _candidates(self, per: str, max_bits: float | None) -> dict[str, list[Choice]]:
        """For each tensor or group of them, every scheme that all of its tensors have."""
        if per not in _GROUPS:
            raise ValueError(f"per: got {per!r}, accepted: {', '.join(_GROUPS)}")
        groups: dict[str, dict[str, list[SweepRow]]] = {}
        for row in self.rows:
            if max_bits is None or row.bits <= max_bits:
                groups.setdefault(_GROUPS[per](row), {}).setdefault(row.scheme, []).append(row)
        table = {}
        for name, by_scheme in groups.items():
            size = max(len(rows) for rows in by_scheme.values())
            table[name] = [choice_of(name, rows) for rows in by_scheme.values() if len(rows) == size]
        return table

    def summary(self) -> list[str]:
        """The result in a few sentences: which format for which tensor, within which bits."""
        from narrowgauge.numerics.sweeps.text import summary

        return summary(self)

    def table(self, max_bits: float | None = None) -> str:
        """A text table: tensors worst first, schemes by SQNR, `*` at the best scheme of each tensor (among those
        of at most `max_bits` bits per value)."""
        from narrowgauge.numerics.sweeps.text import align, table_cells

        return align(*table_cells(self, max_bits))

    def matrix(self, metric: str = "sqnr_db") -> str:
        """A text table of one metric, tensors (worst first) × schemes (by bits)."""
        from narrowgauge.numerics.sweeps.text import align, matrix_cells

        return align(*matrix_cells(self, metric))

    def __str__(self) -> str:
        return self.table()

    def html(self, path: str | Path | None = None) -> str:
        """The report as one self-contained HTML page; written to `path` where one is given."""
        from narrowgauge.numerics.sweeps.html import page

        text = page(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def figure(self, path: str | Path) -> None:
        """Heat map and SQNR against bits as a figure file (the suffix decides: .png, .pdf, .svg).

        ImportError with the way out where matplotlib is not installed; ValueError for another suffix.
        """
        from narrowgauge.numerics.sweeps.figure import save_figure

        save_figure(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; numbers that are not finite are the texts "Infinity", "-Infinity" and "NaN"."""
        body = {entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}
        return {"kind": KIND, "version": VERSION, **body}

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as strict JSON; written to `path` where one is given."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`. ValueError for JSON that is not a sweep of this version."""
        try:
            return cls.from_dict(json.loads(text))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"text: expected the JSON of a sweep ({KIND}, version {VERSION}): {error!r}") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. ValueError for data of another kind or version."""
        check_kind(data)
        return cls(**fields_of(data))
