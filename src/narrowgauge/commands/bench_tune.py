"""`narrowgauge bench tune`: how products of quantised matrices are launched on a GPU, chosen or measured."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.bench.model_shapes import Problem

SUMMARY = "how products of quantised matrices are launched on a GPU: by the model, or measured and kept"
DESCRIPTION = """\
With --target: list what the model of launches chooses for the products of real models on a GPU that need not be there.
The times are those by which it ranks its candidates; they are no measurements.

With --device cuda: run every product, time its best candidates, and keep the fastest in a file that later processes of
this machine read. Products that are not in the file run as the model chooses.

examples:
  narrowgauge bench tune --target sm_90
  narrowgauge bench tune --target sm_100 --model deepseek-v3 --tokens 4096 --scheme e4m3fn/1x128,e4m3fn/128x128
  narrowgauge bench tune --device cuda --model llama3-8b --tokens 2048 --tokens 8192
"""


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("tune", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--target", metavar="NAME", help="sm_80, sm_89, sm_90, sm_100, sm_120, gfx942 or gfx950")
    where.add_argument("--device", help="cuda, cuda:1 …: measure on this GPU")
    add("--model", action="append", metavar="NAME", help="its linear layers (may be repeated; default: llama3-8b)")
    add("--tokens", action="append", type=int, metavar="N", help="rows of x (may be repeated; default: 1, 16, 128, "
        "2048 and 8192)")  # fmt: skip
    add("--pass", action="append", dest="passes", choices=("fprop", "dgrad", "wgrad"),
        help="which product of the layers (may be repeated; default: fprop)")  # fmt: skip
    add("--scheme", action="append", metavar="SCHEME",
        help="of both sides, or X,W (may be repeated; default: e4m3fn/row)")  # fmt: skip
    add("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """Prints the choices."""
    from narrowgauge.bench.model_shapes import TOKENS_GPU, model_problems
    from narrowgauge.bench.tune import chosen_by_model

    problems = model_problems(args.model or ["llama3-8b"], args.tokens or TOKENS_GPU, args.passes or ["fprop"])
    pairs = args.scheme or ["e4m3fn/row"]
    if args.device is not None:
        return _measure(args, problems, pairs)
    launches = chosen_by_model(problems, pairs, args.target)
    if args.json:
        print_json([asdict(launch) for launch in launches])
        return 0
    rows = [
        (launch.problem, launch.schemes, _text(launch.config), str(launch.considered), number(launch.seconds * 1e6, 3))
        for launch in launches
    ]
    print_table(("<product", "<schemes", "<launch", "candidates", "model's µs"), rows, title=f"on {args.target}")
    print_text("The times rank candidates; they are a model's, and no measurements.")
    return 0


def _measure(args: argparse.Namespace, problems: list[Problem], pairs: list[str]) -> int:
    import torch

    from narrowgauge.bench.tune import measured
    from narrowgauge.kernels.tuning import device_name, table_path

    with progress("products") as show:
        choices = measured(problems, pairs, args.device, show)
    if args.json:
        print_json([choice._asdict() for choice in choices])
        return 0
    rows = [
        (choice.op, choice.key, _text(choice.config), choice.how,
         "-" if choice.seconds is None else number(choice.seconds * 1e6, 3))
        for choice in choices
    ]  # fmt: skip
    print_table(("<operator", "<products", "<launch", "<", "µs"), rows)
    note(f"kept in {table_path(device_name(torch.device(args.device)))}")
    return 0


def _text(config: dict[str, Any]) -> str:
    """The launch in few words: numbers with their names, switches where they are on."""
    words = [f"{name} {value}" for name, value in config.items() if not isinstance(value, bool)]
    return ", ".join(words + [name for name, value in config.items() if value is True])
