"""`narrowgauge bench train`: flags of the suite that times a training step under recipes."""

from __future__ import annotations

import argparse
from typing import Any

from narrowgauge.commands.bench_flags import add_device
from narrowgauge.commands.bench_output import deliver, print_suite
from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note

SUMMARY = "one training step of a Llama under recipes, against float32 and other people's emulations"
DESCRIPTION = """\
Time one step of training, forward, backward and AdamW, of a Llama under each recipe, in turn with the same step in
float32. Peers are the emulated float8 training of torchao and the Linear of microxcaling, where they are installed.

TFLOP/s counts 6 operations for each weight of a linear layer and token, whatever a recipe computes besides; `% of peak`
is its share of torch's product of large float32 matrices, measured in the same run. `gradient dB` is the
signal-to-noise ratio of all gradients of the first step against float32's.

examples:
  narrowgauge bench train
  narrowgauge bench train --recipe fp8_row --compiled --no-peers
  narrowgauge bench train --width 256 --layers 2 --out bench/results/train-cpu.json
"""


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("train", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    add("--recipe", action="append", metavar="RECIPE", help="a recipe's name or a TOML file; may be repeated "
        "(default: fp8_tensor, fp8_row, fp8_deepseek and mxfp8)")  # fmt: skip
    for name, default, text in (("width", 512, "width of the model, a multiple of 64"), ("layers", 4, "its blocks"),
                                ("batch", 4, "windows in the batch"), ("tokens", 256, "tokens in a window"),
                                ("repetitions", 9, "measurements of each row, at least 9")):  # fmt: skip
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    add("--peers", action=argparse.BooleanOptionalAction, default=True,
        help="also torchao and microxcaling, where installed (default: yes)")  # fmt: skip
    add("--compiled", action=argparse.BooleanOptionalAction, default=False,
        help="also under torch.compile, which takes minutes to start (default: no)")  # fmt: skip
    add_device(parser)
    add("--out", metavar="FILE", help="also write the result, with hardware and versions, as JSON")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Runs the suite and prints its table; 1 where the bits are wrong."""
    from narrowgauge.bench.train_step import run_suite

    try:
        with progress("steps") as show:
            result = run_suite(args.recipe, width=args.width, layers=args.layers, batch=args.batch, tokens=args.tokens,
                               device=args.device, repetitions=args.repetitions, peers=args.peers,
                               compiled=args.compiled, show=show)  # fmt: skip
    except AssertionError as difference:
        note("narrowgauge bench train: the result is not the reference's, so its speed is not reported")
        note(str(difference))
        return 1
    deliver(result, args, print_suite)
    return 0
