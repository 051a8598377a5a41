"""Flags that the suites of `narrowgauge bench` have in common."""

from __future__ import annotations

import argparse

PEERS_HELP = "also time torch's own casts and ml_dtypes, gfloat, torchao and others, where installed (default: yes)"


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: %(default)s)")


def add_common(parser: argparse.ArgumentParser, *, repetitions: int) -> None:
    """--device, --repetitions, --out and --json."""
    add_device(parser)
    parser.add_argument("--repetitions", type=int, default=repetitions, metavar="N",
                        help="measurements of each row, at least 9 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="also write the result, with hardware and versions, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_plot(parser: argparse.ArgumentParser) -> None:
    """--plot."""
    parser.add_argument("--plot", metavar="FILE", help="also draw the roofline, every row a point: .png, .svg or .pdf; "
                        "needs matplotlib (pip install 'narrowgauge[plots]')")  # fmt: skip
