"""Metrics as a table that every spreadsheet reads."""

import csv
from pathlib import Path
from typing import TextIO

from narrowgauge.atomic_files import replacing
from narrowgauge.train.loggers.base import Values

Row = dict[str, str]


class CsvLogger:
    """One row a step, one column a metric; a cell is empty where the step does not have the metric.

    A metric that appears for the first time gets a column at the end, for which the file is written anew. Numbers are
    written so that they read back to the same float; ``nan`` and ``inf`` as such. A run that starts at step 0 begins a
    new file. A resumed run keeps the rows up to its step and drops the later ones, which it will write again.
    ``ValueError`` at the start when the file exists and is no such table.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns = ["step"]
        self._file: TextIO | None = None

    def start(self, first: int, last: int) -> None:
        self._columns, rows = self._read() if self.path.exists() else (["step"], [])
        kept = [row for row in rows if row["step"].isdecimal() and int(row["step"]) <= first]
        self._rewrite(kept if first else [], self._columns if first else ["step"])

    def _read(self) -> tuple[list[str], list[Row]]:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()  # torn by a kill; the first line never is, the file appears with it
        reader = csv.DictReader(lines, restval="")
        columns = list(reader.fieldnames or [])
        if not columns or columns[0] != "step":
            raise ValueError(f"path: line 1 of {self.path} is not the head of a log's table; give another path")
        return columns, [{name: row[name] for name in columns} for row in reader]

    def _rewrite(self, rows: list[Row], columns: list[str]) -> None:
        if self._file is not None:
            self._file.close()
        with replacing(self.path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
        self._file = self.path.open("a", encoding="utf-8", newline="")

    def log(self, step: int, metrics: Values) -> None:
        if self._file is None:
            raise RuntimeError("CsvLogger.log: called before start")
        row = {"step": str(step), **{name: repr(float(value)) for name, value in metrics.items()}}
        if added := [name for name in row if name not in self._columns]:
            self._file.flush()
            self._rewrite(self._read()[1], [*self._columns, *added])
        csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n").writerow(row)
        self._file.flush()

    def stop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
