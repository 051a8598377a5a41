"""`narrowgauge compress`: a model as a file of entropy-coded weights."""

from __future__ import annotations

import argparse

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import print_json, print_table, print_text

SUMMARY = "a model as a file of entropy-coded weights"
DESCRIPTION = """\
Quantise the weights of a model and write them as Exp-Golomb, Huffman or rANS bitstreams, with a table of what every
tensor takes. Norms and biases (one axis) are kept as they are unless you say --all. MODEL is a .safetensors file or a
folder of such files. `narrowgauge decompress` turns the result into a .safetensors file again.

By default weights are rounded to multiples of 2^-8; with --lossless only tensors of integers are coded, such as the
codes of an exported file, and nothing changes.

examples:
  narrowgauge compress model.safetensors model.ngz
  narrowgauge compress model.safetensors model.ngz --scheme rf8/row
  narrowgauge compress checkpoint/ model.ngz --coder exp-golomb --order 0
  narrowgauge compress exported.safetensors model.ngz --lossless
"""
STEP_BITS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file, or a folder of such files")
    parser.add_argument("out", metavar="OUT", help="the file to write, by custom .ngz")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--step-bits", type=int, metavar="N", help=f"round to multiples of 2^-N (default {STEP_BITS})")
    what.add_argument("--scheme", help="quantise by a scheme, such as rf8/row, e4m3fn/row, int4/1x32, mxfp4")
    what.add_argument("--lossless", action="store_true", help="code tensors of integers, keep all others")
    parser.add_argument("--coder", default="huffman", help="exp-golomb, huffman (default) or rans")
    parser.add_argument("--order", type=int, metavar="K", help="of exp-golomb; by default the best for each tensor")
    parser.add_argument("--all", action="store_true", help="also norms, biases and other tensors of one axis")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Writes the file, prints the table."""
    from narrowgauge.priors.coding import compress
    from narrowgauge.priors.coding.model_report import HEADS

    exact = args.lossless or args.scheme is not None
    with progress("compress") as show:
        found = compress(
            args.model,
            args.out,
            step_bits=(None if exact else STEP_BITS) if args.step_bits is None else args.step_bits,
            scheme=args.scheme,
            coding=args.coder,
            order=args.order,
            everything=args.all,
            show=show,
        )
    if args.json:
        print_json(found.to_dict())
        return 0
    print_table(HEADS, [row.cells() for row in found.rows])
    print_text(f"\n{found.totals()}")
    return 0
