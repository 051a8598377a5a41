"""`narrowgauge numerics diff`: on which inputs two implementations disagree."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from narrowgauge.commands.output import print_json, print_text

SUMMARY = "where two implementations of a format differ, code by code, and why"
DESCRIPTION = """\
Compare two implementations of a cast (--format) or of a quantizer with scales (--scheme) on all finite 16-bit floats,
every value of the format, every midpoint and their neighbours, NaN and infinities. Differences are grouped by cause,
each with an example. Exit status 1 where there is one, those of causes that --ignore names left out.

implementations:
  reference                the definition in numpy, saturating
  reference_nonsaturating  the same, overflow to infinity or NaN (casts only)
  narrowgauge              this package's operator on the CPU
  triton                   its Triton kernel: on a CUDA device, else in Triton's interpreter
  torch, cuda              torch's casts on the CPU, on a GPU (casts only)
  ml_dtypes, gfloat        the packages of these names (casts only)
  MODULE:FUNCTION          yours: float32 numpy array in; codes, values or (codes, scale, outer) out

examples:
  narrowgauge numerics diff reference torch --format e4m3fn
  narrowgauge numerics diff reference_nonsaturating ml_dtypes --format e5m2
  narrowgauge numerics diff reference triton --scheme mxfp8
  narrowgauge numerics diff narrowgauge gfloat --format e4m3fn --ignore "NaN sign"
  narrowgauge numerics diff reference my_kernels:quantize --scheme e4m3fn/row --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge numerics diff`."""
    add = parser.add_argument
    add("a", metavar="A", help="an implementation, by name")
    add("b", metavar="B", help="the other one")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--format", metavar="F", help="the cast to this format, without scales, such as e4m3fn")
    what.add_argument("--scheme", metavar="S", help="quantising under this scheme, such as e4m3fn/row")
    add("--budget", type=int, metavar="N", help="at most so many inputs of one kind (default: 262144)")
    add("--seed", type=int, default=0, help="of random inputs and of +sr schemes (default: %(default)s)")
    add("--ignore", action="append", metavar="CAUSE", default=[], help="a cause that does not count; may be repeated")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compares and prints; 1 where they differ."""
    from narrowgauge.commands import numerics_implementations as implementations
    from narrowgauge.formats import BlockFormat, get, parse
    from narrowgauge.numerics.quantizers.differences import BUDGET, CAUSES, diff

    if args.format is not None and isinstance(get(args.format), BlockFormat):
        raise ValueError(f"format: {args.format} has scales, so it is no cast; compare it with --scheme {args.format}")
    if args.budget is not None and args.budget < 1:
        raise ValueError(f"budget: got {args.budget}, accepted: a number of inputs >= 1")
    if unknown := [cause for cause in args.ignore if cause not in CAUSES]:
        raise ValueError(f"ignore: got {unknown[0]!r}, accepted: {', '.join(CAUSES)}")
    if "triton" in (args.a, args.b):
        implementations.prepare_interpreter()
    target = parse(args.scheme) if args.format is None else get(args.format)
    a, b = (_chosen(name, target, args.seed) for name in (args.a, args.b))
    try:
        report = diff(a, b, target, budget=args.budget or BUDGET, seed=args.seed)
    except ImportError as error:
        raise ValueError(str(error)) from error
    report = replace(report, groups=tuple(group for group in report.groups if group.cause not in args.ignore))
    if args.json:
        print_json(report.to_dict())
    else:
        print_text(report.table())
    return 0 if report.ok else 1


def _chosen(name: str, target: Any, seed: int) -> Any:
    """What `diff` takes for a name: the user's function, one that was given its seed, or the name."""
    from narrowgauge.commands.numerics_check import load
    from narrowgauge.commands.numerics_implementations import seeded

    if ":" in name:
        return load(name)
    return seeded(name, target, seed) if getattr(target, "stochastic", False) else name
