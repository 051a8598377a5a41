"""`narrowgauge methods`: the registered training methods."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any

from narrowgauge.commands.output import print_json, print_table

SUMMARY = "the training methods that `train --method` takes"
DESCRIPTION = """\
List the training methods: what each does, its settings, and whose it is.

examples:
  narrowgauge methods list
  narrowgauge methods list --json
  narrowgauge train --method ema:decay=0.99
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-command of `narrowgauge methods`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    listing = actions.add_parser("list", help="all registered methods", description=DESCRIPTION)
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    listing.set_defaults(parser=listing)


def describe_methods() -> list[dict[str, Any]]:
    """Name, summary, paper, arXiv id and settings with their defaults of every method."""
    import narrowgauge.methods  # noqa: F401 - importing it fills the register
    from narrowgauge.train import METHODS

    rows = []
    for name, cls in METHODS.items():
        # A method need not be a dataclass; one that is not has no settings.
        declared = fields(cls) if hasattr(cls, "__dataclass_fields__") else ()  # type: ignore[arg-type]
        settings = {field.name: field.default for field in declared if field.init and field.default is not MISSING}
        facts = {"summary": cls.summary, "paper": cls.paper, "arxiv": cls.arxiv or None}
        rows.append({"name": name, **facts, "settings": settings})
    return rows


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    rows = describe_methods()
    if args.json:
        print_json(rows)
        return 0
    table = []
    for row in rows:
        settings = ", ".join(f"{name}={value}" for name, value in row["settings"].items())
        source = f"{row['paper']}, arXiv {row['arxiv']}" if row["arxiv"] else row["paper"]
        table.append((row["name"], row["summary"], settings or "-", source))
    print_table(("<method", "<what it does", "<settings", "<source"), table)
    return 0
