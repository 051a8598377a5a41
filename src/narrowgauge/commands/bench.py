"""`narrowgauge bench SUITE`: flags and tables of the suites in `narrowgauge.bench`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from narrowgauge.commands import bench_optim, bench_optim_training, bench_recipe_step, bench_recipes
from narrowgauge.commands.bench_output import deliver, print_suite
from narrowgauge.commands.output import note

if TYPE_CHECKING:
    from narrowgauge.bench import SuiteResult

SUMMARY = "time a suite against its baseline and the other implementations installed here"
DESCRIPTION = """\
Time a suite. Competitors are measured in turn (A B C A B C), so that what disturbs the machine disturbs all of them;
reported are medians, the distance of the quartiles, and the ratio to the baseline timed in the same run.
A suite checks the operator's bits against the reference first and gives no speed of a wrong result (exit status 1).

examples:
  narrowgauge bench quantize
  narrowgauge bench quantize --size 1024 --scheme mxfp8 --no-peers
  narrowgauge bench formats --out bench/results/formats-cpu.json
  narrowgauge bench formats --format nf4 --format hif8 --no-peers
  narrowgauge bench linear --recipe fp8_row --recipe mxfp8
  narrowgauge bench activation --policy int8
  narrowgauge bench optim --state log8 --state coat
  narrowgauge bench optim --quality
  narrowgauge bench recipes --recipe nvfp4 --recipe mine.toml
  narrowgauge bench recipe-step --recipe fp8_row
  narrowgauge bench quantize --out bench/results/quantize.json
  narrowgauge bench compile-matrix --target sm_90
"""


PEERS_HELP = "also time torch's own casts and ml_dtypes, gfloat, torchao and others, where installed (default: yes)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suites and their flags."""
    suites = parser.add_subparsers(metavar="SUITE", required=True, dest="suite")
    quantize = suites.add_parser(
        "quantize", help="quantize a float32 matrix, against x.clone()", description=DESCRIPTION
    )
    quantize.add_argument("--size", type=int, default=4096, metavar="N", help="an N x N matrix (default: %(default)s)")
    quantize.add_argument("--scheme", default="e4m3fn/row", help="what to quantise to (default: %(default)s)")
    quantize.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True,
                          help=PEERS_HELP)  # fmt: skip
    quantize.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True,
                          help="also under torch.compile, which takes a while to start (default: yes)")  # fmt: skip
    every = suites.add_parser("formats", help="quantize a float32 matrix to every format of at most 8 bits, against "
                              "x.clone()", description=DESCRIPTION)  # fmt: skip
    every.add_argument("--size", type=int, default=4096, metavar="N", help="an N x N matrix (default: %(default)s)")
    every.add_argument("--format", action="append", metavar="NAME", help="only this format (may be repeated)")
    every.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help=PEERS_HELP)
    linear = suites.add_parser("linear", help="QuantLinear forward and backward, against nn.Linear in float32",
                               description=DESCRIPTION)  # fmt: skip
    linear.add_argument("--size", type=int, default=1024, metavar="N",
                        help="N tokens, N inputs, N outputs (default: %(default)s)")  # fmt: skip
    linear.add_argument("--recipe", action="append", metavar="NAME", help="only this recipe (may be repeated)")
    activation = suites.add_parser("activation", help="memory, time and loss of a Llama block whose saved activations "
                                   "are compressed, against the plain block", description=DESCRIPTION)  # fmt: skip
    activation.add_argument("--size", type=int, default=512, metavar="N",
                            help="width of the block, a multiple of 64 (default: %(default)s)")  # fmt: skip
    activation.add_argument("--policy", action="append", metavar="NAME", help="only this policy (may be repeated)")
    activation.add_argument("--train-steps", type=int, default=60, metavar="N",
                            help="steps that give the loss gap, 0: none (default: %(default)s)")  # fmt: skip
    for suite, repetitions in ((quantize, 15), (every, 9), (linear, 15), (activation, 15)):
        suite.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: %(default)s)")
        suite.add_argument("--repetitions", type=int, default=repetitions, metavar="N",
                           help="measurements of each competitor, at least 9 (default: %(default)s)")  # fmt: skip
        suite.add_argument("--out", metavar="FILE", help="also write the result, with hardware and versions, as JSON")
    bench_optim.add_parser(suites)
    bench_optim_training.add_parser(suites)
    bench_recipes.add_parser(suites)
    bench_recipe_step.add_parser(suites)
    matrix = suites.add_parser("compile-matrix", help="build every Triton kernel for every GPU target, without a GPU",
                               description=DESCRIPTION)  # fmt: skip
    matrix.add_argument("--target", action="append", metavar="NAME", help="only this target (may be repeated)")
    matrix.add_argument("--case", metavar="TEXT", help="only cases whose name contains TEXT")
    for suite in (quantize, every, linear, activation, matrix):
        suite.add_argument("--json", action="store_true", help="print one JSON object")
        suite.set_defaults(parser=suite)


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its table; 1 where the bits are wrong."""
    if args.suite == "compile-matrix":
        return _compile_matrix(args)
    try:
        result = _SUITES[args.suite](args)
    except AssertionError as difference:
        note(f"narrowgauge bench {args.suite}: the result is not the reference's, so its speed is not reported")
        note(str(difference))
        return 1
    deliver(result, args, print_suite)
    return 0


def _compile_matrix(args: argparse.Namespace) -> int:
    from narrowgauge.bench.compile_matrix import main

    words = [word for target in args.target or () for word in ("--target", target)]
    words += ["--case", args.case] if args.case else []
    return main([*words, "--json"] if args.json else words)


def _quantize(args: argparse.Namespace) -> SuiteResult:
    from narrowgauge.bench.quantize import run_suite

    return run_suite(args.size, args.scheme, device=args.device, repetitions=args.repetitions,
                     peers=args.peers, compiled=args.compiled)  # fmt: skip


def _formats(args: argparse.Namespace) -> SuiteResult:
    from narrowgauge.bench.all_formats import run_suite
    from narrowgauge.commands.numerics_progress import progress

    with progress("quantize") as show:
        return run_suite(args.size, args.format, device=args.device, repetitions=args.repetitions,
                         peers=args.peers, progress=show)  # fmt: skip


def _linear(args: argparse.Namespace) -> SuiteResult:
    from narrowgauge.bench.linear import run_suite

    return run_suite(args.size, args.recipe, device=args.device, repetitions=args.repetitions)


def _activation(args: argparse.Namespace) -> SuiteResult:
    from narrowgauge.bench.activation import run_suite

    return run_suite(args.size, args.policy, train_steps=args.train_steps, device=args.device,
                     repetitions=args.repetitions)  # fmt: skip


_SUITES = {"quantize": _quantize, "formats": _formats, "linear": _linear, "activation": _activation}
