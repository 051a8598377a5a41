"""`narrowgauge formats`: the table of number formats, and one of them in detail."""

from __future__ import annotations

import argparse

from narrowgauge.commands.output import number, print_json, print_table, print_text

SUMMARY = "the number formats; with a name, one of them in detail"
DESCRIPTION = """\
List the number formats, or describe one: its limits, its values, and where they lie.

`rf8b<bias>`, `q<integer bits>.<fraction bits>` and `binary<bits>p<precision>` name further formats by rule.

examples:
  narrowgauge formats
  narrowgauge formats e2m1fn
  narrowgauge formats q3.4 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge formats`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe this format instead of listing all")
    parser.add_argument("--json", action="store_true", help="print JSON: a list, or with NAME one object")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/formats.md")


def run(args: argparse.Namespace) -> int:
    """Prints the list or one format."""
    from narrowgauge import formats
    from narrowgauge.commands import format_facts as facts

    if args.markdown:
        print_text(facts.markdown().removesuffix("\n"))
        return 0
    if args.name is None:
        infos = [formats.finfo(name) for name in formats.names()]
        if args.json:
            print_json(infos)
        else:
            print_table(facts.COLUMNS, [facts.table_row(info) for info in infos])
        return 0
    info = formats.finfo(args.name)
    if args.json:
        print_json(facts.describe(args.name))
        return 0
    print_text(f"{info.name}: {facts.layout(args.name)}\n")
    for name, text in facts.facts(args.name).items():
        print_text(f"  {name:<22} {text}")
    levels = facts.positive_values(args.name)
    if levels is not None:
        shown = ", ".join(number(value, 6) for value in levels[: facts.NUM_SHOWN])
        more = f", … ({len(levels)} in all)" if len(levels) > facts.NUM_SHOWN else ""
        print_text(f"\nPositive values: {shown}{more}\n")
        print_text(facts.number_line(levels))
    return 0
