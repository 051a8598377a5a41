"""`narrowgauge numerics sweep`: which format for which distribution."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from narrowgauge.commands.output import note, print_text

if TYPE_CHECKING:
    from narrowgauge.numerics import SweepResult
    from narrowgauge.numerics.sweeps.rows import Skipped

SUMMARY = "formats × granularities × distributions: which format holds what"
DESCRIPTION = """\
Quantise tensors drawn from distributions under many schemes and tell which scheme loses least, and which is cheapest
for a given quality. Schemes are named whole (--scheme e4m3fn/1x128), or as every --format at every --granularity.

examples:
  narrowgauge numerics sweep
  narrowgauge numerics sweep --distribution gg0.5 --distribution normal --scheme nvfp4 --scheme mxfp4
  narrowgauge numerics sweep --format e4m3fn --format int8 --granularity row --granularity 1x128 --max-bits 8.5
  narrowgauge numerics sweep --html formats.html --json > formats.json
"""
DEFAULT_DISTRIBUTIONS = (
    "normal",
    "laplace",
    "gg0.5",
    "gg1.5",
    "student_t3",
    "lognormal2",
    "outliers0.001x50",
    "uniform",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge numerics sweep`."""
    add = parser.add_argument
    add("--distribution", action="append", metavar="NAME", dest="distributions",
        help=f"may be repeated (default: {', '.join(DEFAULT_DISTRIBUTIONS)}); a wrong name lists all")  # fmt: skip
    add("--size", default="256x1024", metavar="RxC", help="shape of each tensor (default: %(default)s)")
    add_scheme_arguments(parser)
    add_result_arguments(parser)


def add_scheme_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that say what to quantise to; shared with `report`."""
    add = parser.add_argument
    add("--scheme", action="append", metavar="S", dest="schemes",
        help="a scheme such as e4m3fn/1x128:pow2; may be repeated (default: a dozen common ones)")  # fmt: skip
    add("--format", action="append", metavar="F", dest="formats",
        help="a format, at every --granularity; may be repeated")  # fmt: skip
    add("--granularity", action="append", metavar="G", dest="granularities",
        help="tensor, row, col or RxC; may be repeated (default: tensor)")  # fmt: skip
    add("--seed", type=int, default=0, help="of what is drawn, and of stochastic rounding (default: %(default)s)")


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that say what to print and write; shared with `report`."""
    add = parser.add_argument
    add("--max-bits", type=float, metavar="B",
        help="mark the best scheme among those of at most B bits per value, scales included")  # fmt: skip
    add("--target-db", type=float, metavar="DB", help="SQNR at which a scheme is good enough (default: 30)")
    add("--exact", action="store_true", help="quantise by the numpy definition even where a kernel serves the scheme")
    add("--matrix", action="store_true", help="print SQNR as tensors × schemes instead of the long table")
    add("--json", action="store_true", help="print the whole result as one JSON object")
    add("--html", metavar="FILE", help="also write the report as one HTML page")
    add("--png", metavar="FILE", help="also write the figure (needs matplotlib)")


def parse_size(text: str) -> tuple[int, int]:
    """Rows and columns of "256x1024"; ValueError for other texts."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if match is None or not int(match[1]) or not int(match[2]):
        raise ValueError(f"size: got {text!r}, accepted: rows and columns, as 256x1024")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    from narrowgauge.numerics.sweeps.run import sweep
    from narrowgauge.numerics.tensors.sources import from_distributions

    names = args.distributions or DEFAULT_DISTRIBUTIONS
    source = from_distributions(names, size=parse_size(args.size), seed=args.seed)
    measure_and_print(
        partial(sweep, source, args.schemes, formats=args.formats, granularities=args.granularities), args
    )
    return 0


def measure_and_print(
    measure: Callable[..., SweepResult], args: argparse.Namespace, skipped: Iterable[Skipped] = ()
) -> None:
    """Calls `measure` (`sweep` or `report`) with a quantizer, a progress bar and what the shared flags say, and prints
    the result; `skipped`: what was left out before."""
    from narrowgauge.commands.numerics_progress import progress
    from narrowgauge.commands.numerics_quantizer import FastestQuantizer
    from narrowgauge.numerics.sweeps.rows import TARGET_DB

    quantizer = FastestQuantizer(exact=args.exact)
    target_db = TARGET_DB if args.target_db is None else args.target_db
    with progress(args.action) as show:
        result = measure(quantize=quantizer, seed=args.seed, target_db=target_db, progress=show)
    notes = (*result.notes, quantizer.summary())
    _print_result(replace(result, skipped=(*skipped, *result.skipped), notes=notes), args)


def _print_result(result: SweepResult, args: argparse.Namespace) -> None:
    """A sweep's result in the form that `args` asks for; files as well."""
    if args.html:
        result.html(args.html)
    if args.png:
        result.figure(args.png)
    if args.json:
        print_text(result.to_json().rstrip("\n"))
    else:
        print_text(result.matrix() if args.matrix else result.table(args.max_bits))
        print_text()
        for line in result.summary():
            print_text(line)
        for entry in result.skipped:
            print_text(f"left out: {entry.scheme}{f' of {entry.tensor}' if entry.tensor else ''} ({entry.reason})")
    for path in filter(None, (args.html, args.png)):
        note(f"written: {path}")
