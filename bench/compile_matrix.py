"""Builds every Triton kernel for every GPU target ahead of time, on a machine that has none.

    python -m narrowgauge.bench.compile_matrix [--target sm_90] [--case gemm] [--jobs 2] [--json]
    python -m narrowgauge.bench.compile_matrix --out bench/results/compile-matrix.json
    python -m narrowgauge.bench.compile_matrix --compare bench/results/compile-matrix.json

What a build is judged by stands in `bench/compile_build.py`, what a comparison finds in `bench/compile_table.py`.
Exit status: 0 all good, 1 some build failed or differs from the table, 2 nothing could be built.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from importlib import import_module
from itertools import starmap
from pathlib import Path
from pkgutil import iter_modules

import narrowgauge.kernels as kernels
from narrowgauge.bench.compile_build import TARGETS, Build, build
from narrowgauge.bench.compile_table import differences, read_table, write_table
from narrowgauge.bench.parser import OneLineParser
from narrowgauge.kernels._triton import HAS_TRITON, triton
from narrowgauge.kernels.op import OPS, CompileCase
from narrowgauge.strict_json import dumps


def load_ops() -> None:
    """Imports every public module of `narrowgauge.kernels`, so that `OPS` is complete."""
    for module in iter_modules(kernels.__path__):
        if not module.name.startswith("_"):
            import_module(f"narrowgauge.kernels.{module.name}")


def chosen_cases(texts: Sequence[str], targets: Sequence[str]) -> list[tuple[str, CompileCase, str]]:
    """(operator, case, target) of every case whose name contains one of the texts."""
    named = ((op.name, case) for op in OPS.values() for case in op.compile_cases())
    found = [(op, case) for op, case in named if any(text in case.name for text in texts)]
    return [(op, case, target) for op, case in found for target in targets if target in case.targets]


@cache
def _known(texts: tuple[str, ...], targets: tuple[str, ...]) -> list[tuple[str, CompileCase, str]]:
    load_ops()
    return chosen_cases(texts, targets)


def _build_number(number: int, texts: tuple[str, ...], targets: tuple[str, ...]) -> Build:
    """Build `number` of the chosen ones: jit functions do not travel between processes, numbers do."""
    return build(*_known(texts, targets)[number])


def builds(chosen: Sequence[tuple[str, CompileCase, str]], jobs: int, texts: Sequence[str],
           targets: Sequence[str]) -> Iterator[Build]:  # fmt: skip
    """The chosen builds, which are those of `texts` and `targets`, in order, made by `jobs` processes."""
    if jobs == 1 or len(chosen) < 2:
        yield from starmap(build, chosen)
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(chosen))) as pool:
        where = tuple(texts), tuple(targets)
        waiting = [pool.apply_async(_build_number, (number, *where)) for number in range(len(chosen))]
        for result in waiting:
            yield result.get()


def _line(result: Build) -> str:
    state = "ok  " if not result.problems else "FAIL"
    text = f"{state} {result.target:7s}{result.registers:4d} regs {result.spills:3d} spills "
    text += f"{result.shared_bytes / 1024:6.1f} KiB {result.load_bytes:3d} B loads {result.store_bytes:3d} B stores  "
    text += result.case + "".join(f"\n{'':14s}{name}" for name in (*result.instructions, *result.tensor_copies))
    return text + "".join(f"\n{'':14s}problem: {problem}" for problem in result.problems)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        "compile_matrix",
        prog="python -m narrowgauge.bench.compile_matrix",
        description="Build every Triton kernel for every GPU target, without a GPU, and check the result: the expected "
        "tensor-core instruction, no spilled registers, shared memory within the target's limit, wide loads.",
    )
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags, but --json."""
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this target (may be repeated)")
    parser.add_argument("--case", action="append", metavar="TEXT",
                        help="only cases whose name contains TEXT (may be repeated)")  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes that compile (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table of the builds as JSON")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare the builds with those of a table")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """The command with its parsed arguments."""
    if not HAS_TRITON:
        return _refuse("the package 'triton' is not installed")
    if arguments.jobs < 1:
        return _refuse(f"--jobs: expected at least 1, got {arguments.jobs}")
    load_ops()
    targets, texts = arguments.target or list(TARGETS), arguments.case or [""]
    chosen = chosen_cases(texts, targets)
    if not chosen:
        where = "" if arguments.target is None else f" for {', '.join(targets)}"
        return _refuse(f"--case: no case's name contains {' or '.join(map(repr, texts))}{where}")
    if not all(isinstance(case.kernel, triton.runtime.JITFunction) for _, case, _ in chosen):
        return _refuse("the kernels are those of Triton's interpreter; run it without TRITON_INTERPRET")
    table = None
    if arguments.compare is not None:
        try:
            table = read_table(arguments.compare)
        except (OSError, ValueError) as error:
            return _refuse(f"--compare: {error}")
    made = []
    for result in builds(chosen, arguments.jobs, texts, targets):
        made.append(result)
        if not arguments.json:
            print(_line(result), flush=True)
    failed = [result for result in made if result.problems]
    changes = [] if table is None else differences(made, table, triton.__version__)
    if arguments.out is not None:
        write_table(arguments.out, made, triton.__version__)
    if arguments.json:
        content = {"triton": triton.__version__, "failed": len(failed), "builds": [asdict(result) for result in made]}
        print(dumps(content if table is None else {**content, "differences": changes}))
    else:
        print("".join(f"{change}\n" for change in changes), end="")
        compared = "" if table is None else f"; {len(changes)} differences from {arguments.compare}"
        good = len(made) - len(failed)
        print(f"{good} of {len(made)} builds are good (triton {triton.__version__}){compared}")
    return 1 if failed or changes else 0


def _refuse(reason: str) -> int:
    print(f"compile_matrix: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
