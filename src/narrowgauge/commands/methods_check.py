"""`narrowgauge methods check`: runs experiments and says what they showed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, print_json, print_table

if TYPE_CHECKING:
    from narrowgauge.bench.evidence import Evidence
    from narrowgauge.bench.evidence_run import Outcome, Trial

SUMMARY = "run a method's experiment against its control, over several seeds"
DESCRIPTION = """\
Run the experiment of a method: all its arms for each seed, each seed in a process of its own with one thread. For every
claim: means of treatment and control, difference with its 95 % interval, what was asked, verdict. The same seeds give
the same numbers, but for those that count seconds.

OUT gets a JSON file with all numbers of a method and a picture; with --all also a page of everything that OUT holds.
Exit status 1 where an effect came out the opposite way.

examples:
  narrowgauge methods check ema
  narrowgauge methods check ema backslash --seeds 5
  narrowgauge methods check ema --recipe fp8_row --state log8
  narrowgauge methods check --all --out bench/results/methods --page docs/evidence.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `narrowgauge methods check`."""
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="names of `narrowgauge methods list`")
    add("--all", action="store_true", help="every method (about an hour on two cores)")
    add("--seeds", type=int, metavar="N", help="seeds 0 … N-1 (default: the experiment's own number)")
    add("--recipe", metavar="RECIPE", help="with the linear layers in this recipe (see narrowgauge recipes)")
    add("--state", metavar="STATE", help="with AdamW's moments in this code (log8, coat, int8 …)")
    add("--jobs", type=int, metavar="N", help="seeds at a time (default: the cores)")
    add("--out", type=Path, default=Path("runs/methods"), metavar="DIR", help="results (default: %(default)s)")
    add(
        "--page",
        type=Path,
        metavar="FILE",
        help="the page of all evidence in DIR (default with --all: DIR/evidence.md)",
    )
    add("--scale", type=float, default=1.0, metavar="SHARE",
        help="share of the steps, to try whether it runs at all; nothing is written below 1")  # fmt: skip
    add("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """Runs them, writes the files, prints the claims."""
    from narrowgauge.bench.evidence_run import Trial
    from narrowgauge.nn import get_recipe
    from narrowgauge.train import METHODS, OPPOSITE, get_published
    from narrowgauge.train.claims import MIN_SEEDS

    if bool(args.names) == args.all:
        raise ValueError("names: expected names of methods, or --all")
    if args.seeds is not None and args.seeds < MIN_SEEDS:
        raise ValueError(f"seeds: expected at least {MIN_SEEDS} for an interval, got {args.seeds}")
    if not 0 < args.scale <= 1:
        raise ValueError(f"scale: expected a number in (0, 1], got {args.scale:g}")
    if args.recipe is not None:
        get_recipe(args.recipe)
    names = sorted(METHODS) if args.all else list(dict.fromkeys(args.names))
    trials = [
        Trial(name, seed, args.recipe, args.state, args.scale)
        for name in names
        for seed in range(args.seeds or get_published(name).experiment().seeds)
    ]
    found = _check(trials, names, args)
    if args.page or args.all:
        _write_page(args.out, args.page or args.out / "evidence.md", args.scale)
    if args.json:
        print_json([_document(evidence) for evidence in found])
    return 1 if any(evidence.verdict == OPPOSITE for evidence in found) else 0


def _document(evidence: Evidence) -> dict[str, object]:
    from narrowgauge.strict_json import plain

    return {**plain(evidence), "verdict": evidence.verdict}


def _check(trials: Sequence[Trial], names: Sequence[str], args: argparse.Namespace) -> list[Evidence]:
    from narrowgauge.bench.evidence import evidence_of
    from narrowgauge.bench.evidence_run import run_trials

    jobs = args.jobs if args.jobs is not None else os.cpu_count() or 1
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    wanted = {name: sum(trial.method == name for trial in trials) for name in names}
    shares: dict[Trial, float] = {}
    found: list[Evidence] = []
    with progress("methods check") as show:

        def tell(trial: Trial, share: float, what: str) -> None:
            shares[trial] = share
            show(round(100 * sum(shares.values())), 100 * len(trials), f"{trial.method}, seed {trial.seed}: {what}")

        for outcome in run_trials(trials, jobs=jobs, tell=tell):
            tell(outcome.trial, 1.0, "done")
            own = outcomes[outcome.trial.method]
            own.append(outcome)
            note(f"{outcome.trial.method}, seed {outcome.trial.seed}: {outcome.seconds:.0f} s")
            if len(own) == wanted[outcome.trial.method]:
                found.append(evidence_of(own))
                _finish(found[-1], args)
    return found


def _finish(evidence: Evidence, args: argparse.Namespace) -> None:
    """Writes a method's files and prints its claims."""
    from narrowgauge.bench.evidence import write_evidence
    from narrowgauge.bench.evidence_page import claim_cells, numerics

    if not args.json:
        print_table(
            ("<claim", "<treatment", "<control", "difference", "<95 %", "<asked", "<verdict"),
            [claim_cells(result) for result in evidence.judged],
            title=f"{evidence.method}, {numerics(evidence)}, {len(evidence.values)} seeds: {evidence.verdict}",
        )
    if args.scale < 1:
        note("nothing is written: the experiment was only tried")
        return
    path = write_evidence(evidence, args.out)
    note(f"written: {path}")
    if find_spec("matplotlib") is None:
        note("no picture: matplotlib is not installed (pip install 'narrowgauge[plots]')")
    else:
        from narrowgauge.bench.evidence_plot import plot_evidence

        note(f"written: {plot_evidence(evidence, path.with_suffix('.png'))}")


def _write_page(folder: Path, page: Path, scale: float) -> None:
    from narrowgauge.bench.evidence import all_evidence
    from narrowgauge.bench.evidence_page import evidence_page

    if scale < 1:
        return
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(evidence_page(all_evidence(folder)), encoding="utf-8")
    note(f"written: {page}")
