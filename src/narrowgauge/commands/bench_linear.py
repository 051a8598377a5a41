"""`narrowgauge bench linear`: flags of the suite that times quantised layers."""

from __future__ import annotations

import argparse
from typing import Any

from narrowgauge.commands.bench_flags import add_common, add_plot
from narrowgauge.commands.bench_output import deliver, print_suite, refuse
from narrowgauge.commands.output import note

SUMMARY = "QuantLinear forward and backward under recipes, against nn.Linear"
DESCRIPTION = """\
Time forward and backward of a linear layer under each recipe, against nn.Linear in the same dtype. The scaled product
is held to its reference first; beside the time stands how far output and gradients are from float32's, in dB.

TFLOP/s counts the three products, 6·M·N·K, `% of peak` its share of torch's product of large matrices of that dtype,
measured in the same run: with operands of 8 bits more than 100 % can be had where the machine has units for them.

examples:
  narrowgauge bench linear
  narrowgauge bench linear --recipe fp8_row --recipe mxfp8 --shape 2048x4096x4096
  narrowgauge bench linear --model llama3-8b --tokens 4096 --dtype bfloat16 --device cuda --plot linear.png
"""


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("linear", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    add("--size", type=int, default=1024, metavar="N", help="N tokens, N outputs, N inputs (default: %(default)s)")
    add("--shape", action="append", metavar="MxNxK", help="M tokens, N outputs, K inputs instead; may be repeated")
    add("--model", action="append", metavar="NAME", help="a model's linear layers, such as llama3-8b; may be repeated")
    add("--tokens", type=int, default=2048, metavar="N", help="tokens of these layers (default: %(default)s)")
    add("--recipe", action="append", metavar="NAME", help="only this recipe (may be repeated)")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"),
        help="of x, weight and gradient (default: %(default)s)")  # fmt: skip
    add_common(parser, repetitions=15)
    add_plot(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its table; 1 where the product is wrong."""
    from narrowgauge.bench.linear import run_suite

    try:
        result = run_suite(args.size, args.recipe, shapes=args.shape or (), models=args.model or (),
                           tokens=args.tokens, dtype=args.dtype, device=args.device,
                           repetitions=args.repetitions)  # fmt: skip
    except AssertionError as difference:
        return refuse("linear", difference)
    deliver(result, args, print_suite)
    if args.plot:
        from narrowgauge.bench.roofline import plot

        note(f"written: {plot(result, args.plot)}")
    return 0
