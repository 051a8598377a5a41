"""The `narrowgauge` command: it parses flags, calls the command, and turns a mistake into one line.

Exit status: 0 done; 1 ran, and the answer is bad (a check failed, a training diverged); 2 asked for what cannot be.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from narrowgauge import __version__
from narrowgauge.commands import (
    bench,
    checkpoint,
    compress,
    decompress,
    demo,
    doctor,
    formats,
    methods,
    numerics,
    ops,
    priors,
    recipes,
    runs,
    train,
)

DESCRIPTION = """\
Train in 8 bits and fewer, with numbers you can trust, on the machine you have.

New here? `narrowgauge demo` trains a small Llama in fp32 and in 8 bits and compares the two, in about two minutes.
Every command explains itself with --help, and most print JSON with --json.
"""
EPILOG = "exit status: 0 done, 1 ran and the answer is bad, 2 asked for what cannot be"

COMMANDS = {
    "demo": demo,
    "train": train,
    "runs": runs,
    "formats": formats,
    "recipes": recipes,
    "numerics": numerics,
    "checkpoint": checkpoint,
    "compress": compress,
    "decompress": decompress,
    "priors": priors,
    "ops": ops,
    "doctor": doctor,
    "bench": bench,
    "methods": methods,
}
"""Command → module, in the order of `--help`."""


class Parser(argparse.ArgumentParser):
    """Keeps the line breaks of help texts, takes no abbreviated flags, and answers a typo with the nearest name."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """One line and exit status 2."""
        self.exit(2, f"{self.prog}: {with_hint(message, self.format_help())}; see {self.prog} --help\n")


def with_hint(message: str, help_text: str) -> str:
    """argparse's message, shorter, with the nearest accepted name for an unknown choice or flag."""
    if match := re.search(r"invalid choice: '(.*?)' \(choose from (.+)\)", message):
        accepted = re.findall(r"[\w.-]+", match[2])
        return f"unknown {match[1]!r}{_nearest(match[1], accepted)}; accepted: {', '.join(accepted)}"
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        accepted = sorted(set(re.findall(r"--[a-z][a-z-]*", help_text)))
        return f"unknown argument {match[1]!r}{_nearest(match[1], accepted)}"
    return message


def _nearest(name: str, accepted: Sequence[str]) -> str:
    near = get_close_matches(name, accepted, n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def build_parser() -> Parser:
    """The parser of all commands; `args.run` is the chosen command's function, `args.parser` its parser."""
    parser = Parser(prog="narrowgauge", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"narrowgauge {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where a mistake was noticed, for bug reports")
    chosen = parser.add_subparsers(metavar="COMMAND", required=True, title="commands", dest="command")
    for name, module in COMMANDS.items():
        sub = chosen.add_parser(name, help=module.SUMMARY, description=module.DESCRIPTION)
        sub.set_defaults(run=module.run, parser=sub)
        module.add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status. `argv`: the words after `narrowgauge`, by default those of the process."""
    args, unknown = build_parser().parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"narrowgauge {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has enough (`| head`). What is left in the buffer must not raise a second time at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if args.traceback:
            raise
        print(f"narrowgauge {args.command}: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
