"""`narrowgauge numerics report`: a checkpoint, layer by layer."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

from narrowgauge.commands.numerics_sweep import add_result_arguments, add_scheme_arguments, measure_and_print

SUMMARY = "a checkpoint layer by layer: what each format would cost it"
DESCRIPTION = """\
Quantise the matrices of a checkpoint under many schemes, the hardest layers first, and tell for each layer which scheme
loses least and which is cheapest for a given quality. MODEL is a .safetensors file, its …safetensors.index.json, or a
folder that holds one of the two; values are read one tensor at a time, of large ones whole rows up to --sample. In a
file that `narrowgauge.export` wrote, codes are measured as what they decode to.

examples:
  narrowgauge numerics report model.safetensors
  narrowgauge numerics report model.safetensors --scheme e4m3fn/row --scheme mxfp8 --scheme nvfp4 --matrix
  narrowgauge numerics report checkpoint/ --only attn --target-db 25 --max-bits 8.5
  narrowgauge numerics report model.safetensors --html report.html --json > report.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge numerics report`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a .safetensors file, its index, or a folder with one of them")
    add("--only", action="append", metavar="TEXT", help="only tensors whose name contains TEXT; may be repeated")
    add("--sample", default="262144", metavar="N",
        help="at most so many elements of each tensor, or all (default: %(default)s)")  # fmt: skip
    add_scheme_arguments(parser)
    add_result_arguments(parser)


def parse_sample(text: str) -> int | None:
    """A number of elements, None for "all"; ValueError otherwise."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"sample: got {text!r}, accepted: a number of elements, or all")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    from narrowgauge.numerics.sweeps.report import report
    from narrowgauge.numerics.sweeps.run import combine
    from narrowgauge.numerics.tensors.sources import from_checkpoint

    sample = parse_sample(args.sample)
    schemes, skipped = combine(args.schemes, args.formats, args.granularities)
    source = from_checkpoint(args.model, limit=sample)
    if args.only:
        infos = tuple(info for info in source.infos if any(text in info.name for text in args.only))
        if not infos:
            names = ", ".join(info.name for info in source.infos[:8])
            raise ValueError(f"only: no tensor's name contains {' or '.join(args.only)}; names begin with: {names}")
        source = replace(source, infos=infos)
    measure = partial(report, source, schemes, sample=sample, title=f"Number formats for {args.model}")
    measure_and_print(measure, args, skipped)
    return 0
