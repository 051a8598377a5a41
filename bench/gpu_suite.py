"""Everything that a GPU has to show, in one call of a few minutes: its tests, all suites, and the results in few files.

    python -m narrowgauge.bench.gpu_suite --out FOLDER [--minutes 9] [--device cuda] [--quick]

FOLDER gets at most eight files, rewritten after every step, so that a call that is cut off has left what it found:

    results.json      machine, what became of each step, the rows of every suite (`narrowgauge bench compare` reads it)
    tests.json        how many tests passed, and the messages of those that failed
    tuning.json       the launch configurations that the kernels took, and whether they were measured
    log.txt           what the steps printed
    roofline-*.png    where matplotlib is installed

Every step is a process of its own with its part of the time (`narrowgauge.bench.time_budget`); one that fails or is
ended does not stop the others. Exit status: 0 all good, 1 a step failed or a test did, 2 asked for what cannot be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from narrowgauge.bench.device_tests import OPTION, summarize
from narrowgauge.bench.machine import check_device, describe_machine
from narrowgauge.bench.parser import OneLineParser
from narrowgauge.bench.report import write_json
from narrowgauge.bench.result_files import COMBINED
from narrowgauge.bench.suite_part import DECISIONS
from narrowgauge.bench.time_budget import Done, Task, run_program, run_tasks

RESERVE_SECONDS = 8.0
"""Kept for starting up, ending steps and writing files."""
LEAST_MINUTES = 0.5
HANGING_SECONDS = 60
"""A test that takes longer says in the log where it is."""
TESTS = "tests"


@dataclass(frozen=True)
class Suite:
    """A part: `narrowgauge.bench.<module>.run_suite(**options)`; quick: what `--quick` takes instead, None: nothing."""

    name: str
    module: str
    weight: float
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] | None = None


def _gemm(**options: Any) -> dict[str, Any]:
    """Products of Llama-3 8B; without products of weights alone unless `options` asks for them."""
    return {"models": ["llama3-8b"], "layers": WIDEST, "weight_schemes": (), **options}


TEST_FOLDERS = (
    ("tests of kernels", 3.0, ("tests/kernels",), ("tests/kernels/test_swizzle.py",)),
    ("tests of layers and optimizers", 0.7, ("tests/nn", "tests/optim", "tests/train", "tests/priors", "tests/bench"),
     ("tests/bench/test_temporaries.py",)),
)  # fmt: skip
QUANTIZE = ("e4m3fn/row", "e4m3fn/row+sr", "e4m3fn/1x128", "mxfp8", "nvfp4", "int8/row")
FP8 = ("e4m3fn/row", "e4m3fn/1x128,e4m3fn/128x128")
WIDEST = ("gate_up", "down")
"""The layers of a Llama that take most of its time."""
SUITES = (
    Suite("quantize", "quantize", 3.0,
          {"schemes": QUANTIZE, "models": ["llama3-8b"], "tokens": 2048, "dtype": "bfloat16", "compiled": False,
           "ops": ("quantize", "dequantize", "pair")},
          {"schemes": ("e4m3fn/row", "e4m3fn/row+sr"), "shapes": ["128x256"], "compiled": False, "peers": False}),
    Suite("gemm fp8", "gemm", 2.5, _gemm(tokens=[2048], schemes=["e4m3fn", *FP8]),
          {"shapes": ["64x64x64"], "schemes": ["e4m3fn/row"], "weight_schemes": [], "peers": False}),
    Suite("gemm int8 and blocks", "gemm", 2.0, _gemm(tokens=[2048], schemes=["int8/row", "mxfp8", "nvfp4"])),
    Suite("gemm of few tokens", "gemm", 1.0, _gemm(tokens=[1, 16], schemes=[], weight_schemes=None)),
    Suite("gemm of many tokens", "gemm", 0.7, _gemm(tokens=[8192], schemes=FP8)),
    Suite("quantize compiled", "quantize", 0.6,
          {"schemes": ("e4m3fn/row", "e4m3fn", "int8/row"), "shapes": ["4096x14336"], "dtype": "bfloat16"}),
    Suite("linear", "linear", 1.0,
          {"shapes": ["2048x14336x4096", "2048x4096x14336"], "dtype": "bfloat16"},
          {"shapes": ["64x64x64"], "recipes": ["fp8_row"], "repetitions": 9}),
    Suite("optim", "optim", 1.0, {}, {"parameters": 100_000, "states": ["log8"], "peers": False, "compiled": False}),
    Suite("activation", "activation", 0.5, {"size": 4096, "tokens": 2048, "train_steps": 0},
          {"size": 64, "tokens": 16, "batch": 1, "policies": ["int8"], "train_steps": 0, "repetitions": 9}),
    Suite("train", "train_step", 0.8, {"width": 2048, "layers": 4, "batch": 4, "tokens": 2048},
          {"width": 64, "layers": 1, "batch": 1, "tokens": 32, "recipes": ["fp8_row"], "peers": False}),
)  # fmt: skip
RECIPES = ("fp8_row", "fp8_deepseek", "mxfp8", "nvfp4")
PICTURES = "rooflines"


@dataclass(frozen=True)
class Folder:
    """Where the steps leave what they found (`parts`), and where it is put together (`out`)."""

    out: Path
    parts: Path

    @property
    def log(self) -> Path:
        """What the steps print."""
        return self.out / "log.txt"

    def part(self, name: str, ending: str = "json") -> Path:
        """The file of one step."""
        return self.parts / f"{name.replace(' ', '-')}.{ending}"


def all_tasks(folder: Folder, device: str, *, quick: bool, root: Path) -> Iterator[Task]:
    """The steps in order of importance. root: a checkout, which has the tests."""
    for name, weight, paths, quick_paths in TEST_FOLDERS:
        yield Task(name, _tests(folder, name, device, root, quick_paths if quick else paths), weight)
    for suite in SUITES:
        chosen = suite.quick if quick else suite.options
        if chosen is None:
            continue
        options = {**chosen, "device": device}
        words = (suite.module, json.dumps(options), str(folder.part(suite.name)))
        yield Task(suite.name, (sys.executable, "-m", "narrowgauge.bench.suite_part", *words), suite.weight)
    yield Task("recipes", _recipes(folder, device, quick), 0.6)
    yield Task(PICTURES, _pictures(folder), 0.3)


def _tests(folder: Folder, name: str, device: str, root: Path, paths: Sequence[str]) -> Sequence[str] | str:
    places = [root / path for path in paths]
    if missing := [str(place) for place in places if not place.exists()]:
        return f"{', '.join(missing)}: not there; --root has to be a checkout"
    if find_spec("pytest") is None:
        return "pytest is not installed: pip install 'narrowgauge[test]'"
    kept = (OPTION, str(folder.part(name, "jsonl")))
    parallel = ("-n", "logical", "--dist", "worksteal") if find_spec("xdist") and device != "cpu" else ()
    return (
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "narrowgauge.bench.device_tests",
        "-o", f"faulthandler_timeout={HANGING_SECONDS}", "--rootdir", str(root), "--device", device, *kept, *parallel,
        *map(str, places),
    )  # fmt: skip


def _recipes(folder: Folder, device: str, quick: bool) -> Sequence[str]:
    steps = (
        ("--steps", "4", "--dim", "32", "--ffn-dim", "64", "--num-layers", "1", "--final-windows", "2") if quick else ()
    )
    chosen = [word for name in RECIPES[: 1 if quick else None] for word in ("--recipe", name)]
    return (
        sys.executable, "-m", "narrowgauge", "bench", "recipes", *chosen, *steps, "--seeds", "1", "--device", device,
        "--runs", str(folder.parts / "runs"), "--out", str(folder.part("recipes")), "--json",
    )  # fmt: skip


def _pictures(folder: Folder) -> Sequence[str] | str:
    if find_spec("matplotlib") is None:
        return "matplotlib is not installed: pip install 'narrowgauge[plots]'"
    return (sys.executable, "-m", "narrowgauge.bench.roofline", str(folder.out / "results.json"), str(folder.out))


def write_all(folder: Folder, device: str, done: Sequence[Done]) -> None:
    """Puts together what is there: results.json, tests.json and tuning.json."""
    suites, decisions = [], {}
    for suite in SUITES:
        content = _read(folder.part(suite.name))
        if content is not None:
            decisions[suite.name] = content.pop(DECISIONS)
            suites.append(content)
    recipes = _read(folder.part("recipes")) or {}
    write_json(folder.out / "results.json", {
        "machine": asdict(describe_machine()),
        "device": device,
        "steps": [asdict(each) for each in done],
        COMBINED: suites,
        "recipes": {name: value for name, value in recipes.items() if name != "runs"},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    })  # fmt: skip
    tests = {name: summarize(folder.part(name, "jsonl")) for name, *_ in TEST_FOLDERS}
    write_json(folder.out / "tests.json", tests)
    write_json(folder.out / "tuning.json", decisions)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def run(out: Path, device: str, seconds: float, *, quick: bool, root: Path) -> list[Done]:
    """All steps within `seconds`; prints a line for each."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="narrowgauge-gpu-suite-") as parts:
        folder = Folder(out, Path(parts))
        folder.log.write_text("", encoding="utf-8")
        done: list[Done] = []

        def started(task: Task, allowed: float) -> None:
            with folder.log.open("a", encoding="utf-8") as log:
                log.write(f"\n=== {task.name}, at {time.monotonic() - start:.0f} s, may take {allowed:.0f} s\n")

        def finished(each: Done) -> None:
            done.append(each)
            write_all(folder, device, done)
            took = f"{each.seconds:6.1f} s of {each.allowed_seconds:5.1f}"
            print(f"{took}  {each.status:11s}  {each.name}  {each.reason}", flush=True)

        tasks = list(all_tasks(folder, device, quick=quick, root=root))
        run_tasks(tasks, seconds - RESERVE_SECONDS, lambda command, limit: run_program(command, limit, folder.log),
                  started=started, finished=finished)  # fmt: skip
    return done


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        "gpu_suite",
        prog="python -m narrowgauge.bench.gpu_suite",
        description=(__doc__ or "").partition("\n\n")[0] + "\nA step that fails or runs out of its part of the time is "
        "reported and does not stop the rest.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go, at most eight")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long it may take (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 …, or cpu to try it out (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, which show that it runs and no more")
    parser.add_argument("--root", type=Path, default=Path(), metavar="FOLDER",
                        help="a checkout, which has the tests (default: the current folder)")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see the module's docstring."""
    args = _parser().parse_args(argv)
    if not args.minutes >= LEAST_MINUTES:
        print(f"gpu_suite: --minutes: expected {LEAST_MINUTES} or more, got {args.minutes}", file=sys.stderr)
        return 2
    try:
        check_device(args.device)
    except ValueError as error:
        print(f"gpu_suite: {error}", file=sys.stderr)
        return 2
    print(describe_machine(), flush=True)
    done = run(args.out, args.device, 60 * args.minutes, quick=args.quick, root=args.root.resolve())
    return 0 if all(each.ok for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
