"""`narrowgauge doctor`: what is here, what runs on what, and whether it computes what it should."""

from __future__ import annotations

import argparse
from typing import Any

from narrowgauge.commands.output import print_json, print_table, print_text

SUMMARY = "what this machine runs natively, emulates, or cannot do; and a check that it computes right"
DESCRIPTION = """\
Show versions and hardware, what serves each operator and each recipe's matrix products here, and compare quantised
codes with the exact definition. Exit status 1 if any of them differs.

examples:
  narrowgauge doctor
  narrowgauge doctor --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 1 if a check failed."""
    from dataclasses import asdict

    from narrowgauge.bench import describe_machine
    from narrowgauge.commands import checks
    from narrowgauge.commands.ops import describe_ops

    machine = describe_machine()
    device = "cpu" if machine.gpu is None else "cuda"
    findings: dict[str, Any] = {
        "machine": asdict(machine),
        "device": device,
        "ops": {row["name"]: row[device] for row in describe_ops()},
        "recipes": checks.recipe_homes(device),
        "checks": checks.round_trips(device),
    }
    failed = [name for name, problem in findings["checks"].items() if problem]
    findings["ok"] = not failed
    if args.json:
        print_json(findings)
    else:
        _print(findings)
    return 1 if failed else 0


def _print(findings: dict[str, Any]) -> None:
    for name, value in findings["machine"].items():
        print_text(f"{name:>15}  {'not here' if value is None else value}")
    if findings["machine"]["gpu"] is None:
        print_text("\nNo GPU: every format is emulated on the CPU, with the same codes and scales as on a GPU.")
    ops = [(name, home or "cannot run here") for name, home in findings["ops"].items()]
    print_text()
    print_table(("<operator", f"<served on {findings['device']} by"), ops)
    recipes = []
    for name, gemms in findings["recipes"].items():
        for text in dict.fromkeys(gemms.values()):
            recipes.append((name, ", ".join(gemm for gemm, own in gemms.items() if own == text), text))
    print_text()
    print_table(("<recipe", "<GEMM", "<runs"), recipes)
    checks = [(name, problem or "right") for name, problem in findings["checks"].items()]
    print_text()
    print_table(("<codes, scales and values of", "<are"), checks)
    print_text()
    print_text("all checks passed" if findings["ok"] else "a check failed: results of this installation are wrong")
