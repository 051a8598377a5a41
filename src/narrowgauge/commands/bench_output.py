"""How the result of a suite reaches the user: a file, JSON, or a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench import SuiteResult
    from narrowgauge.bench.report import Result

_HEADS = {
    "milliseconds": "ms",
    "gb_per_s": "GB/s",
    "copy_percent": "% of copy",
    "tflop_per_s": "TFLOP/s",
    "peak_percent": "% of peak",
    "intensity_flop_per_byte": "FLOP/B",
    "tokens_per_s": "tokens/s",
    "times_copy": "× copy_",
    "times_rn": "× RN",
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
_UNITS = {"_gb_per_s": "GB/s", "_tflop_per_s": "TFLOP/s"}


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


def refuse(suite: str, difference: AssertionError) -> int:
    """Says that a result is wrong, and how; exit status 1."""
    note(f"narrowgauge bench {suite}: the result is not the reference's, so its speed is not reported")
    note(str(difference))
    return 1


def print_suite(result: SuiteResult) -> None:
    """The table of a suite, its ceilings, what was not timed, and the machine."""
    figures = list(dict.fromkeys(name for row in result.rows for name in row.figures))
    heads = [_HEADS.get(name, name) for name in figures]
    table = []
    for row in result.rows:
        cells: list[Any] = [number(row.figures[name], 3) if name in row.figures else "-" for name in figures]
        table.append((row.name, *cells, f"{100 * row.timing.spread:.0f}", f"{row.ratio:.2f}", row.note))
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    print_table(("<", *heads, "spread %", f"× {result.baseline}", "<"), table, title=f"{result.suite}: {settings}")
    if result.ceilings:
        print_text(f"ceilings in this run: {', '.join(_ceiling(*item) for item in result.ceilings.items())}")
    for reason, names in _by_reason(result.skipped).items():
        print_text(f"not timed: {'; '.join(names)} ({reason})")
    print_text(f"on {result.machine}")


def _by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    return names


def _ceiling(name: str, value: float) -> str:
    """As in "copy 21.3 GB/s"."""
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")
    short = next((name.removesuffix(ending) for ending in _UNITS if name.endswith(ending)), name)
    return f"{short} {number(value, 3)} {unit}".rstrip()
