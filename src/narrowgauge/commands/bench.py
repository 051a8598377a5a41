"""`narrowgauge bench SUITE`: the suites, and the flags of those that have no file of their own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from narrowgauge.commands import (
    bench_compare,
    bench_gemm,
    bench_linear,
    bench_optim,
    bench_optim_training,
    bench_priors,
    bench_quantize,
    bench_recipes,
    bench_train,
    bench_tune,
)
from narrowgauge.commands.bench_flags import PEERS_HELP, add_common
from narrowgauge.commands.bench_output import deliver, print_suite, refuse

if TYPE_CHECKING:
    from narrowgauge.bench import SuiteResult

SUMMARY = "time a suite against its baseline and the other implementations installed here"
DESCRIPTION = """\
Time a suite. Competitors are measured in turn (A B C A B C), so that what disturbs the machine disturbs all of them;
reported are medians, the distance of the quartiles, the ratio to the baseline and the share of the ceilings (a copy, a
large product), all timed in the same run. A suite checks results against the reference and gives no speed of a wrong
one (exit status 1). Each suite explains its figures: narrowgauge bench SUITE --help. All of it: docs/bench.md

examples:
  narrowgauge bench quantize
  narrowgauge bench quantize --shape 4096x14336 --scheme mxfp8 --no-peers
  narrowgauge bench gemm --shape 2048x6144x4096 --fn my_kernels.py:matmul
  narrowgauge bench linear --recipe fp8_row --recipe mxfp8
  narrowgauge bench optim --state log8 --state coat
  narrowgauge bench activation --policy int8
  narrowgauge bench train --recipe fp8_row
  narrowgauge bench recipes --recipe nvfp4 --recipe mine.toml
  narrowgauge bench priors --seeds 5 --shape 1 --shape 0.5
  narrowgauge bench formats --format nf4 --format hif8 --no-peers
  narrowgauge bench quantize --out before.json
  narrowgauge bench compare before.json after.json
  narrowgauge bench compile-matrix --target sm_90
  narrowgauge bench tune --target sm_90

Everything that a GPU has to show, within minutes: python -m narrowgauge.bench.gpu_suite --out FOLDER
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suites and their flags."""
    suites = parser.add_subparsers(metavar="SUITE", required=True, dest="suite")
    bench_quantize.add_parser(suites)
    every = suites.add_parser("formats", help="quantize a float32 matrix to every format of at most 8 bits, against "
                              "x.clone()", description=DESCRIPTION)  # fmt: skip
    every.add_argument("--size", type=int, default=4096, metavar="N", help="an N x N matrix (default: %(default)s)")
    every.add_argument("--format", action="append", metavar="NAME", help="only this format (may be repeated)")
    every.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help=PEERS_HELP)
    bench_gemm.add_parser(suites)
    bench_linear.add_parser(suites)
    activation = suites.add_parser("activation", help="memory, time and loss of a Llama block whose saved activations "
                                   "are compressed, against the plain block", description=DESCRIPTION)  # fmt: skip
    activation.add_argument("--size", type=int, default=512, metavar="N",
                            help="width of the block, a multiple of 64 (default: %(default)s)")  # fmt: skip
    activation.add_argument("--policy", action="append", metavar="NAME", help="only this policy (may be repeated)")
    activation.add_argument("--train-steps", type=int, default=60, metavar="N",
                            help="steps that give the loss gap, 0: none (default: %(default)s)")  # fmt: skip
    for suite, repetitions in ((every, 9), (activation, 15)):
        add_common(suite, repetitions=repetitions)
        suite.set_defaults(parser=suite)
    bench_optim.add_parser(suites)
    bench_optim_training.add_parser(suites)
    bench_recipes.add_parser(suites)
    bench_train.add_parser(suites)
    bench_priors.add_parser(suites)
    bench_compare.add_parser(suites)
    bench_tune.add_parser(suites)
    matrix = suites.add_parser("compile-matrix", help="build every Triton kernel for every GPU target, without a GPU",
                               description=DESCRIPTION)  # fmt: skip
    matrix.add_argument("--target", action="append", metavar="NAME", help="only this target (may be repeated)")
    matrix.add_argument("--case", action="append", metavar="TEXT",
                        help="only cases whose name contains TEXT (may be repeated)")  # fmt: skip
    matrix.add_argument("--jobs", metavar="N", help="processes that compile (default: 1)")
    matrix.add_argument("--out", metavar="FILE", help="also write the table of the builds as JSON")
    matrix.add_argument("--compare", metavar="FILE", help="compare the builds with those of a table")
    matrix.add_argument("--json", action="store_true", help="print one JSON object")
    matrix.set_defaults(parser=matrix)


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its table; 1 where the bits are wrong."""
    if args.suite == "compile-matrix":
        return _compile_matrix(args)
    try:
        result = _SUITES[args.suite](args)
    except AssertionError as difference:
        return refuse(args.suite, difference)
    deliver(result, args, print_suite)
    return 0


def _compile_matrix(args: argparse.Namespace) -> int:
    from narrowgauge.bench.compile_matrix import main

    words = [word for target in args.target or () for word in ("--target", target)]
    words += [word for text in args.case or () for word in ("--case", text)]
    for flag in ("jobs", "out", "compare"):
        words += [f"--{flag}", value] if (value := getattr(args, flag)) else []
    return main([*words, "--json"] if args.json else words)


def _formats(args: argparse.Namespace) -> SuiteResult:
    from narrowgauge.bench.all_formats import run_suite
    from narrowgauge.commands.numerics_progress import progress

    with progress("quantize") as show:
        return run_suite(args.size, args.format, device=args.device, repetitions=args.repetitions,
                         peers=args.peers, progress=show)  # fmt: skip


def _activation(args: argparse.Namespace) -> SuiteResult:
    from narrowgauge.bench.activation import run_suite

    return run_suite(args.size, args.policy, train_steps=args.train_steps, device=args.device,
                     repetitions=args.repetitions)  # fmt: skip


_SUITES = {"formats": _formats, "activation": _activation}
