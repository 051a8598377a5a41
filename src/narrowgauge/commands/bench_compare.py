"""`narrowgauge bench compare A.json B.json`: what became faster or slower between two result files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench.compare import ComparedFiles, ComparedRow

SUMMARY = "compare two result files row by row: faster, slower, or the same within the spread"
DESCRIPTION = """\
Compare the rows of two result files, B against A: those that `narrowgauge bench SUITE --out FILE` writes, or the
combined file of `python -m narrowgauge.bench.gpu_suite`.

Two ratios are shown. `time` is B's median over A's: what counts on one machine. `relative` is the same of the times
over their baseline, which was measured in the same run: there the machine's speed cancels, and what is left is the
code. The verdict is about `time` where the hardware is the same, else about `relative` (--by says otherwise), and is
`same` where the ratio leaves 1 by no more than the spreads of the two measurements, or by no more than --limit.
Rows that only one file has are listed; hardware, versions and settings that differ are said.

examples:
  narrowgauge bench compare before.json after.json
  narrowgauge bench compare bench/results/quantize-cpu.json mine.json --by relative
  narrowgauge bench compare before.json after.json --fail-slower 10    # exit status 1 where a row lost more than 10 %
"""


def add_parser(suites: Any) -> None:
    """Adds the command to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("compare", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("a", metavar="A.json", help="the result before")
    parser.add_argument("b", metavar="B.json", help="the result after")
    parser.add_argument("--limit", type=float, default=3.0, metavar="PERCENT",
                        help="smaller changes count as none (default: %(default)s)")  # fmt: skip
    parser.add_argument("--by", choices=("time", "relative"), help="which ratio is judged "
                        "(default: time on the same hardware, else relative)")  # fmt: skip
    parser.add_argument("--fail-slower", type=float, metavar="PERCENT",
                        help="exit status 1 where a row is slower by more than this, beyond the spread")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the comparison; 1 where a row is slower than `--fail-slower` allows."""
    from narrowgauge.bench.compare import compare
    from narrowgauge.bench.result_files import read_results

    if args.fail_slower is not None and not args.fail_slower >= 0:
        raise ValueError(f"--fail-slower: expected 0 % or more, got {args.fail_slower}")
    result = compare(read_results(args.a), read_results(args.b), limit_percent=args.limit, by=args.by)
    if args.json:
        print_json(result.to_dict())
    else:
        _print(result)
    if args.fail_slower is None:
        return 0
    slower = result.slower_than(args.fail_slower)
    for row in slower:
        note(f"narrowgauge bench compare: {row.suite}: {row.name} is {_percent(row.judged(result.by))} slower")
    return 1 if slower else 0


def _print(result: ComparedFiles) -> None:
    for text in result.warnings:
        print_text(f"differs: {text}")
    heads = ("<suite", "<row", "A ms", "B ms", "time B/A", "relative B/A", "spread %", "<")
    print_table(heads, [_cells(row) for row in result.rows], title=f"B against A, judged by {result.by}")
    for file, names in (("A", result.only_a), ("B", result.only_b)):
        for name in names:
            print_text(f"only in {file}: {name}")
    counts = ", ".join(f"{result.count(verdict)} {verdict}" for verdict in ("faster", "slower", "same"))
    mean = result.mean_ratio()
    print_text(f"{len(result.rows)} rows: {counts}" + ("" if mean is None else f"; geometric mean × {mean:.3f}"))


def _cells(row: ComparedRow) -> tuple[str, ...]:
    relative = "-" if row.relative_ratio is None else f"{row.relative_ratio:.3f}"
    times = (number(1e3 * seconds, 4) for seconds in row.seconds)
    return (row.suite, row.name, *times, f"{row.time_ratio:.3f}", relative, f"{row.noise_percent:.1f}", row.verdict)


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * (ratio - 1):.1f} %"
