"""`narrowgauge checkpoint`: what is in a file that `export` wrote."""

from __future__ import annotations

import argparse

from narrowgauge.commands.output import print_json, print_table, print_text

SUMMARY = "what is in a quantised checkpoint: schemes, shapes, bytes"
DESCRIPTION = """\
Show a file that `narrowgauge.export` wrote: of every tensor its scheme, shape, bytes and bits per value, and what the
whole takes beside the high-precision model. Only the head of the file is read, whatever its size.

examples:
  narrowgauge checkpoint show model.safetensors
  narrowgauge checkpoint show model.safetensors --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-command of `narrowgauge checkpoint`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    show = actions.add_parser("show", help="its tensors, in a table", description=DESCRIPTION)
    show.add_argument("file", metavar="FILE", help="a .safetensors file of `narrowgauge.export`")
    show.add_argument("--json", action="store_true", help="print a JSON object")
    show.set_defaults(parser=show)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from narrowgauge.nn.files import describe
    from narrowgauge.nn.files.description import HEADS

    found = describe(args.file)
    if args.json:
        print_json(found.to_dict())
        return 0
    name, scheme, shape, dtype, size, bits = HEADS
    print_table((f"<{name}", f"<{scheme}", f"<{shape}", f"<{dtype}", size, bits), found.cells())
    print_text(f"\n{found.totals()}")
    return 0
