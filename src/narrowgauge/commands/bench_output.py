"""How the result of a suite reaches the user: a file, JSON, or a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench import SuiteResult
    from narrowgauge.bench.report import Result

_HEADS = {
    "milliseconds": "ms",
    "gb_per_s": "GB/s",
    "times_copy": "× copy_",
    "codes_equal_percent": "same codes %",
    "sqnr_y_db": "y dB",
    "sqnr_dx_db": "dx dB",
    "sqnr_dw_db": "dW dB",
    "saved_units": "U saved",
    "sqnr_db": "gradient dB",
    "loss_gap_percent": "loss gap %",
    "ns_per_parameter": "ns / parameter",
    "cpu_ns_per_parameter": "CPU ns / parameter",
    "bytes_per_parameter": "state B / parameter",
    "temporary_percent": "temporary %",
    "static_bytes": "static B / parameter",
    "ratio_of_best": "× best",
}


AnyResult = TypeVar("AnyResult", bound="Result")


def deliver(result: AnyResult, args: argparse.Namespace, show: Callable[[AnyResult], None]) -> None:
    """Writes the result to `args.out` if that is given, and prints it: as JSON under `args.json`, else by `show`."""
    from narrowgauge.bench import write_result

    if args.out:
        note(f"written: {write_result(result, args.out)}")
    if args.json:
        print_json(result.to_dict())
    else:
        show(result)


def print_suite(result: SuiteResult) -> None:
    """The table of a suite, what was not timed, and the machine."""
    figures = list(dict.fromkeys(name for row in result.rows for name in row.figures))
    heads = [_HEADS.get(name, name) for name in figures]
    table = []
    for row in result.rows:
        cells: list[Any] = [number(row.figures[name], 3) if name in row.figures else "-" for name in figures]
        table.append((row.name, *cells, f"{100 * row.timing.spread:.0f}", f"{row.ratio:.2f}", row.note))
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    print_table(("<", *heads, "spread %", f"× {result.baseline}", "<"), table, title=f"{result.suite}: {settings}")
    for name, reason in result.skipped.items():
        print_text(f"not timed: {name} ({reason})")
    print_text(f"on {result.machine}")
