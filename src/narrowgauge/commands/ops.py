"""`narrowgauge ops`: the operators and what runs them here."""

from __future__ import annotations

import argparse
from typing import Any

from narrowgauge.commands.output import print_json, print_table

SUMMARY = "the operators, and what runs each of them on this machine"
DESCRIPTION = """\
List the operators: what serves them on the CPU and on a CUDA device, and how their result compares with the
reference (the same bits, or within a stated bound).

examples:
  narrowgauge ops
  narrowgauge ops --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge ops`."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def describe_ops() -> list[dict[str, Any]]:
    """Name, schema, homes by device kind (None where nothing serves it), promise, formula of every operator."""
    from narrowgauge.bench.compile_matrix import load_ops
    from narrowgauge.kernels.op import OPS, Exact

    load_ops()
    rows: list[dict[str, Any]] = []
    for op in OPS.values():
        homes: dict[str, str | None] = {}
        for kind in ("cpu", "cuda"):
            try:
                homes[kind] = op.home(kind)
            except ValueError:
                homes[kind] = None
        promise = "the same bits" if isinstance(op.bound, Exact) else "within a bound"
        rows.append({"name": op.name, "schema": op.schema, **homes, "result": promise, "writes": list(op.mutates)})
    return rows


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    import torch

    rows = describe_ops()
    if args.json:
        print_json(rows)
        return 0
    here = "here" if torch.cuda.is_available() else "no CUDA device here"
    columns = ("<op", "<CPU", f"<CUDA ({here})", "<against the reference", "<writes")
    table = [
        (row["name"], row["cpu"] or "-", row["cuda"] or "-", row["result"], ", ".join(row["writes"]) or "nothing")
        for row in rows
    ]
    print_table(columns, table)
    return 0
