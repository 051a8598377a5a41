"""`narrowgauge bench quantize`: flags of the suite that times quantisers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.bench_flags import PEERS_HELP, add_common
from narrowgauge.commands.bench_output import deliver, print_suite, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

SUMMARY = "quantise a matrix, and read it back, against copying it and other implementations"
DESCRIPTION = """\
Time how a matrix is quantised, against copies of it and the other implementations installed here. All rows of a shape
are measured in turn. What is ours gives the reference's bits on the timed shape, before and after the timing, with
uninitialised memory poisoned; else there is no speed (exit status 1).

GB/s counts what has to be moved: each element read and written once, and the scales. `% of copy` is its share of the
fastest copy of the same shape in the same run, `× RN` the time of stochastic rounding as a multiple of rounding to
nearest, `same codes %` how far a peer's result is ours.

Your own quantiser stands in the table with --fn module:function. It is called as fn(x), x [M, K] on the device, and
returns (codes, scale): a byte for each element, and what scheme.scale_shape says. It is called on new values each time,
before and after the timing, and a wrong result has no speed. Scales may differ by a few units in the last place.

examples:
  narrowgauge bench quantize
  narrowgauge bench quantize --scheme mxfp8 --scheme nvfp4 --op quantize --op dequantize --no-peers
  narrowgauge bench quantize --model llama3-8b --tokens 4096 --dtype bfloat16 --device cuda
  narrowgauge bench quantize --shape 8192x14336 --shape 1x4096 --scheme e4m3fn/1x128
  narrowgauge bench quantize --scheme e4m3fn/row --fn my_kernels:quantize_rows --size 2048
"""


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("quantize", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    add("--scheme", action="append", metavar="SCHEME",
        help="what to quantise to; may be repeated (default: e4m3fn/row and e4m3fn/row+sr)")  # fmt: skip
    add("--op", action="append", choices=("quantize", "dequantize", "pair"),
        help="pair: a matrix and its transpose; may be repeated (default: quantize)")  # fmt: skip
    add("--size", type=int, default=4096, metavar="N", help="an N x N matrix (default: %(default)s)")
    add("--shape", action="append", metavar="MxK", help="this shape instead; may be repeated")
    add("--model", action="append", metavar="NAME",
        help="the inputs of a model's linear layers, such as llama3-8b; may be repeated")  # fmt: skip
    add("--tokens", type=int, default=2048, metavar="N", help="rows of these inputs (default: %(default)s)")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of x (default: %(default)s)")
    add("--fn", action="append", metavar="MODULE:FUNCTION", help="also time this quantiser of yours; may be repeated")
    add("--peers", action=argparse.BooleanOptionalAction, default=True, help=PEERS_HELP)
    add("--compiled", action=argparse.BooleanOptionalAction, default=True,
        help="also under torch.compile, which takes a while to start (default: yes)")  # fmt: skip
    add_common(parser, repetitions=15)


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its table; 1 where the bits are wrong."""
    from narrowgauge.bench.quantize import SCHEMES, run_suite

    functions: dict[str, Callable[..., Any]] = {}
    if args.fn:
        from narrowgauge.bench.own_function import load_function

        functions = {text: load_function(text).function for text in args.fn}
    try:
        result = run_suite(args.scheme or SCHEMES, shapes=args.shape or (), models=args.model or (),
                           tokens=args.tokens, size=args.size, dtype=args.dtype, ops=args.op or ("quantize",),
                           functions=functions, device=args.device, repetitions=args.repetitions, peers=args.peers,
                           compiled=args.compiled)  # fmt: skip
    except AssertionError as difference:
        return refuse("quantize", difference)
    deliver(result, args, print_suite)
    return 0
