"""What commands print on stdout: tables for people, JSON for machines. Progress goes to stderr, elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from narrowgauge.strict_json import dumps

UNLIMITED_WIDTH = 1000
"""Columns where nobody looks (a pipe, a file): nothing is cut or wrapped there."""
MIN_WRAPPED = 24


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Prints a table. Columns are flush right, those whose head begins with "<" flush left; where the terminal is
    narrow, only a flush-left last column wraps."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    cells = [tuple(head.removeprefix("<") for head in columns), *map(tuple, rows)]
    for index, head in enumerate(columns):
        is_left = head.startswith("<")
        width = max(len(row[index]) for row in cells)
        if is_left and index == len(columns) - 1:
            width = min(width, MIN_WRAPPED)
        table.add_column(cells[0][index], justify="left" if is_left else "right", min_width=width, overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    console = Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else UNLIMITED_WIDTH, highlight=False, markup=False
    )
    # Wider than the terminal rather than with numbers cut in two.
    unlimited = console.options.update(max_width=UNLIMITED_WIDTH)
    console.width = max(console.width, Measurement.get(console, unlimited, table).minimum)
    if title:
        console.print(title, soft_wrap=True)
    console.print(table)


def print_text(text: str = "") -> None:
    """Prints a paragraph as it is."""
    print(text, file=sys.stdout)


def note(text: str) -> None:
    """A line on stderr: progress, remarks, everything that is not the result."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Prints `value` as one JSON value."""
    print(dumps(value), file=sys.stdout)


def number(value: float, digits: int = 4) -> str:
    """A number in few characters: 448, 0.001953, 1.701e38, inf."""
    if value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.{digits}g}".replace("e+", "e").replace("e-0", "e-").replace("e0", "e")


def megabytes(count: float) -> str:
    """Bytes as MB (10^6)."""
    return f"{count / 1e6:,.2f} MB"
