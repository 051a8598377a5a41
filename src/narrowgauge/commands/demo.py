"""`narrowgauge demo`: a small Llama on real text, in fp32 and in 8 bits, compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from narrowgauge.commands.output import note, print_json

SUMMARY = "train a small Llama in fp32 and in 8 bits, and compare (about two minutes)"
DESCRIPTION = """\
Train a small Llama twice from the same weights on the same batches of real text: once in fp32 with torch's AdamW,
once with quantised matrix products and compressed optimizer states. One table compares loss, memory and time; it says
what ran natively and what was emulated. OUT gets demo.json and, where matplotlib is installed, loss.png.

examples:
  narrowgauge demo
  narrowgauge demo --recipe mxfp8 --state fp8
  narrowgauge demo --data my_text/ --steps 1000 --json > result.json
  narrowgauge demo --init gg --gg-shape 1.36
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge demo`."""
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object instead of the table")
    add("--steps", type=int, metavar="N", help="optimizer steps of each run (default: what takes about two minutes)")
    add("--recipe", default="fp8_row",
        help="how the linear layers are quantised: a name of `narrowgauge recipes`, or a TOML file"
        " (default: %(default)s)"
        )  # fmt: skip
    add("--state", default="log8", help="how AdamW stores its moments (default: %(default)s)")
    add("--init", default="default", choices=("default", "gg"),
        help="gg: initial weights of the linear layers from a generalized Gaussian, in both runs")  # fmt: skip
    add("--gg-shape", type=float, default=1.36, metavar="SHAPE",
        help="its shape: 2 is normal, 1 is Laplace (default: %(default)s)")  # fmt: skip
    add("--data", metavar="PATH", help="text file, or folder of text files (default: the standard library's sources)")
    add(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="initial weights and order of the data (default: %(default)s)")
    add(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads; with several, threads that wait for each other make a busy machine many times slower"
        " (default: %(default)s)",
    )
    add("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    """Trains both, prints the comparison, writes the files."""
    from narrowgauge.commands import demo_report as report
    from narrowgauge.commands.demo_run import DEFAULT_STEPS, DemoConfig, run_demo

    config = DemoConfig(
        steps=DEFAULT_STEPS if args.steps is None else args.steps,
        recipe=args.recipe,
        state=args.state,
        gg_shape=args.gg_shape if args.init == "gg" else None,
        data=args.data,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
    )
    result = run_demo(config)
    written = report.write_files(result, args.out)
    if args.json:
        print_json(report.summary(result))
    else:
        report.print_report(result)
    for line in written:
        note(line)
    return 0
