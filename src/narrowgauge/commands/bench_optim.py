"""`narrowgauge bench optim`: flags of the suite, and the tables of its comparison of codecs."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.bench_flags import add_device
from narrowgauge.commands.bench_output import deliver, print_suite
from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, number, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench.optim_quality.table import QualityResult, Table, Verdict

SUMMARY = "one step of AdamW with each state codec, against torch's fused AdamW; or how good the codecs are"


DESCRIPTION = """\
Compare the ways in which AdamW can store its moments.

Without --quality: time one step over N parameters in the shapes of a Llama, against torch.optim.AdamW(fused=True) in
float32 and the optimizers of torchao and bitsandbytes where they are installed; bytes per parameter and temporary
memory are measured. The optimizer step's bits are compared with the reference first.

With --quality: every codec, and numpy models of other people's, through one write and through many: error of the
update, moments that vanish, v that does not forget, drifts, defects of published kernels, test vectors. Beside a figure
stands in brackets the one that was published or measured elsewhere. It ends with what holds of log8 against every peer.
Exit status 1 where a test vector or a promise fails.

examples:
  narrowgauge bench optim
  narrowgauge bench optim --parameters 10000000 --state log8 --state coat --no-compiled
  narrowgauge bench optim --quality --out bench/results/optim-quality.json
  narrowgauge bench optim --quality --state log8 --quick
"""


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("optim", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--state", action="append", metavar="NAME",
                        help="only this codec of ours (may be repeated; default: all)")  # fmt: skip
    parser.add_argument("--parameters", type=int, default=50_000_000, metavar="N",
                        help="elements of the model that is stepped (default: %(default)s)")  # fmt: skip
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True,
                        help="also time torchao's and bitsandbytes' optimizers, where installed (default: yes)"
                        )  # fmt: skip
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True,
                        help="also the steps that torch.compile makes, which take a while to start (default: yes)"
                        )  # fmt: skip
    add_device(parser)
    parser.add_argument("--repetitions", type=int, default=9, metavar="N",
                        help="measurements of each step, at least 9 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--quality", action="store_true", help="compare how good the codecs are, not how fast")
    parser.add_argument("--quick", action="store_true",
                        help="with --quality: small sizes, which show that it runs and no more")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="also write the result, with hardware and versions, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its tables; 1 where something is wrong, which is said."""
    if args.quality:
        return _quality(args)
    if args.quick:
        raise ValueError("--quick goes with --quality; for a quick run without it, take fewer --parameters")
    return _speed(args)


def _speed(args: argparse.Namespace) -> int:
    from narrowgauge.bench.optim import run_suite

    try:
        with progress("steps") as show:
            result = run_suite(args.parameters, args.state, device=args.device, repetitions=args.repetitions,
                               peers=args.peers, compiled=args.compiled, show=show)  # fmt: skip
    except AssertionError as difference:
        note("narrowgauge bench optim: a codec or a step is not right, so its speed is not reported")
        note(str(difference))
        return 1
    deliver(result, args, print_suite)
    return 0


def _quality(args: argparse.Namespace) -> int:
    from narrowgauge.bench.optim_quality import run_quality

    with progress("codecs") as show:
        result = run_quality(args.state, quick=args.quick, show=show)
    deliver(result, args, print_quality)
    return 0 if all(line.ok for line in result.lines) else 1


def print_quality(result: QualityResult) -> None:
    """All tables, the lines that pass or fail, and the verdicts."""
    roles = {subject.name: subject.role.value for subject in result.subjects}
    for table in result.tables:
        _print_table(table, roles)
    print_table(("<test vector or promise", "<", "<found"),
                [(line.name, "ok" if line.ok else "FAILS", line.found) for line in result.lines],
                title="test vectors and promises")  # fmt: skip
    print_text()
    if result.verdicts:
        print_table(("<", "<", "ours", "best peer", "<", "<"), [_verdict_cells(verdict) for verdict in result.verdicts],
                    title="ours (log8, the int8 residual) against every peer, those that take far more bytes aside"
                    )  # fmt: skip
        count = Counter(verdict.standing.value for verdict in result.verdicts)
        print_text(f"of {len(result.verdicts)} columns: " + ", ".join(f"{n} {name}" for name, n in count.items()))
    failed = [line.name for line in result.lines if not line.ok]
    print_text(f"{len(result.lines) - len(failed)} of {len(result.lines)} vectors and promises hold")
    print_text(f"on {result.machine}")


def _print_table(table: Table, roles: dict[str, str]) -> None:
    if table.rows:
        rows = [
            (name, roles.get(name, "model"), *(_cell(table, name, column) for column in table.columns))
            for name in table.rows
        ]
        print_table(("<", "<", *table.columns), rows, title=f"{table.key}: {table.title}")
    for name, reason in table.failed.items():
        print_text(f"failed: {name}: {reason}")
    print_text()


def _cell(table: Table, name: str, column: str) -> str:
    """The figure, what is wrong with it, and in brackets the figure expected."""
    text = number(table.rows[name][column], 3)
    if wrong := table.broken.get(name, {}).get(column):
        text += f" {wrong}!" if wrong != "NaN" else "!"
    expected = table.expected.get(name, {}).get(column)
    return text if expected is None else f"{text} ({number(expected, 3)})"


def _verdict_cells(verdict: Verdict) -> tuple[str, ...]:
    """Column, standing, figures, the best peer, and who is ahead by what factor and why."""
    ahead = [f"{number(factor, 3)} × {name} ({verdict.reasons[name]})" for name, factor in verdict.ahead.items()]
    return (f"{verdict.table}: {verdict.column}", verdict.standing.value, number(verdict.ours, 3),
            number(verdict.best, 3), verdict.best_peer, "; ".join(ahead))  # fmt: skip
