"""`narrowgauge numerics`: error measured, implementations compared, kernels checked; one file an action."""

from __future__ import annotations

import argparse

from narrowgauge.commands import (
    numerics_check,
    numerics_compare,
    numerics_diff,
    numerics_report,
    numerics_sweep,
)

SUMMARY = "measure the error of formats, compare implementations bit by bit, check your own kernel"
DESCRIPTION = """\
What low precision does to numbers, and whether an implementation does it right.

examples:
  narrowgauge numerics sweep --distribution student_t3 --format e4m3fn --format int8 --granularity row
  narrowgauge numerics report model.safetensors --html report.html
  narrowgauge numerics compare quantized.npy original.npy --scheme e4m3fn/row
  narrowgauge numerics diff reference torch --format e5m2
  narrowgauge numerics check my_kernels:quantize --scheme e4m3fn/row
"""

ACTIONS = {
    "sweep": numerics_sweep,
    "report": numerics_report,
    "compare": numerics_compare,
    "diff": numerics_diff,
    "check": numerics_check,
}
"""Action → module, in the order of `--help`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `narrowgauge numerics` and their flags."""
    chosen = parser.add_subparsers(metavar="ACTION", required=True, title="actions", dest="action")
    for name, module in ACTIONS.items():
        action = chosen.add_parser(name, help=module.SUMMARY, description=module.DESCRIPTION)
        module.add_arguments(action)
        action.set_defaults(parser=action)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return ACTIONS[args.action].run(args)
