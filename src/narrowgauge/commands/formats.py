"""`narrowgauge formats`: the table of number formats, and one of them in detail."""

from __future__ import annotations

import argparse

from narrowgauge.commands.output import note, number, print_json, print_table, print_text

SUMMARY = "the number formats; with a name, one of them in detail"
DESCRIPTION = """\
List the number formats, or describe one: the layout of its bits, its limits, its special codes, where its values lie,
how well it holds data of known distributions, and which hardware has it.

Further formats are named by rule: q3.4, int6, e3m2b3, posit8es1, bfp6g16, binary6p3se, …; `--rules` explains them.

examples:
  narrowgauge formats
  narrowgauge formats e2m1fn
  narrowgauge formats posit8es1 --plot posit.png
  narrowgauge formats q3.4 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge formats`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="describe this format instead of listing all")
    parser.add_argument("--plot", metavar="FILE", help="with NAME: also draw it, as PNG, SVG or PDF (needs matplotlib)")
    parser.add_argument("--rules", action="store_true", help="list the rules by which further formats are named")
    parser.add_argument("--json", action="store_true", help="print JSON: a list, or with NAME one object")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/formats.md")


def run(args: argparse.Namespace) -> int:
    """Prints the list or one format."""
    from narrowgauge import formats
    from narrowgauge.commands import format_facts as facts

    if args.markdown:
        print_text(facts.markdown().removesuffix("\n"))
        return 0
    if args.rules:
        _print_rules(args.json)
        return 0
    if args.name is None:
        if args.plot:
            raise ValueError("--plot: draws one format; name it, as in 'narrowgauge formats e4m3fn --plot e4m3fn.png'")
        infos = [formats.finfo(name) for name in formats.names()]
        if args.json:
            print_json(infos)
        else:
            print_table(facts.COLUMNS, [facts.table_row(info) for info in infos])
            print_text("\n`narrowgauge formats --rules`: further formats that are named by rule")
        return 0
    formats.get(args.name)  # an unknown name is told before anything is drawn
    if args.plot:
        from narrowgauge.commands.format_plot import draw_format

        note(f"written: {draw_format(args.name, args.plot)}")
    if args.json:
        print_json(facts.describe(args.name))
    else:
        _print_one(args.name)
    return 0


def _print_rules(as_json: bool) -> None:
    from narrowgauge import formats

    rows = [(family.example, family.meaning) for family in formats.families()]
    if as_json:
        print_json([{"example": example, "meaning": meaning} for example, meaning in rows])
    else:
        print_table(("<example", "<meaning"), rows)


def _print_one(name: str) -> None:
    from narrowgauge import formats
    from narrowgauge.commands import format_facts as facts
    from narrowgauge.commands.format_layout import bit_diagram, block_diagram, special_codes
    from narrowgauge.commands.format_sqnr import sqnr_table
    from narrowgauge.formats.hardware import native_support

    fmt, element = formats.get(name), facts.element_of(name)
    print_text(f"{formats.finfo(name).name}: {facts.layout(name)}\n")
    if isinstance(fmt, formats.BlockFormat):
        print_text(block_diagram(fmt) + "\n")
    print_text(bit_diagram(element) + "\n")
    for fact, text in facts.facts(name).items():
        print_text(f"  {fact:<22} {text}")
    codes = special_codes(element)
    if codes:
        print_text()
        print_table(("<code", "value", "<"), codes)
    levels = facts.positive_values(name)
    if levels is not None:
        shown = ", ".join(number(value, 6) for value in levels[: facts.NUM_SHOWN])
        more = f", … ({len(levels)} in all)" if len(levels) > facts.NUM_SHOWN else ""
        print_text(f"\nPositive values: {shown}{more}\n")
        print_text(facts.number_line(levels))
    table = sqnr_table(fmt)
    if table:
        heads = list(next(iter(table.values())))
        what = "rule of the blocks" if isinstance(fmt, formats.BlockFormat) else "which values share one"
        print_text(f"\nSignal to quantisation noise in dB, standard deviation 1 (scale: {what}):")
        print_table(("<", *heads), [(data, *(f"{row[head]:.1f}" for head in heads)) for data, row in table.items()])
    support = native_support(fmt)
    print_text(f"\nIn hardware: {'nowhere that we know of; emulated' if not support else ''}".rstrip())
    for entry in support:
        print_text(f"  {entry.hardware} ({'matrix products' if entry.what == 'matrix' else 'conversions only'})")
