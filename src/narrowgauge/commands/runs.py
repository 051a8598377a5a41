"""`narrowgauge runs`: what training runs left in their folders, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from narrowgauge.commands.output import note, number, print_json, print_table, print_text
from narrowgauge.commands.run_folder import Run, read_run, runs_in

SUMMARY = "list training runs, and compare them in a table and a picture"
DESCRIPTION = """\
Training runs are folders with config.json and metrics.jsonl, as `narrowgauge train` writes them. compare prints the
settings in which they differ and the last and best value of each metric, and draws the curves together.

examples:
  narrowgauge runs list
  narrowgauge runs compare runs/demo-fp8_row runs/demo-fp32
  narrowgauge runs compare demo-fp8_row demo-fp32 --metric val_loss --plot compare.png
"""
DEFAULT_METRICS = ("loss", "val_loss", "grad_norm", "tokens_per_s")
NOT_TRAINING = ("out", "plot", "loggers", "log_every")
"""Settings that change nothing about the run's numbers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of `narrowgauge runs`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    listing = actions.add_parser("list", help="the runs of a folder", description=DESCRIPTION)
    listing.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default: %(default)s")
    listing.set_defaults(parser=listing, act=run_list)
    comparing = actions.add_parser("compare", help="several runs side by side", description=DESCRIPTION)
    comparing.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its name in runs/")
    comparing.add_argument("--metric", action="append", metavar="NAME",
        help=f"metrics to show, may be repeated (default: {', '.join(DEFAULT_METRICS)})")  # fmt: skip
    comparing.add_argument("--plot", type=Path, metavar="FILE", help="picture (.png, .svg, .pdf) of the curves")
    comparing.set_defaults(parser=comparing, act=run_compare)
    for sub in (listing, comparing):
        sub.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    status: int = args.act(args)
    return status


def run_list(args: argparse.Namespace) -> int:
    """A line for each run."""
    found = runs_in(args.folder)
    rows: list[dict[str, Any]] = [
        {"name": run.name, "steps": run.steps, "planned": run.config.get("steps"), "recipe": run.config.get("recipe"),
         "model": run.config.get("model"), "loss": run.last("loss"), "val_loss": run.last("val_loss")}
        for run in found
    ]  # fmt: skip
    if args.json:
        print_json(rows)
        return 0
    if not rows:
        print_text(f"no runs in {args.folder}; `narrowgauge train` makes one")
        return 0
    cells = [
        (row["name"], f"{row['steps']} of {row['planned']}", row["model"] or "-", row["recipe"] or "-",
         _cell(row["loss"]), _cell(row["val_loss"]))
        for row in rows
    ]  # fmt: skip
    print_table(("<run", "steps", "<model", "<recipe", "loss", "val_loss"), cells)
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """Differing settings, metrics, curves."""
    runs = [read_run(name) for name in args.runs]
    labels = _labels(runs)
    known = sorted(set().union(*(run.metrics for run in runs)))
    chosen = args.metric or [name for name in DEFAULT_METRICS if name in known]
    for name in chosen:
        if name not in known:
            raise ValueError(f"metric: no run has {name!r}; known: {', '.join(known)}")
    configs = {label: flat(run.config) for label, run in labels.items()}
    settings = sorted(set().union(*configs.values()))
    different = [name for name in settings if len({str(config.get(name)) for config in configs.values()}) > 1]
    if "recipe" in different:  # its name says it
        different = [name for name in different if not name.startswith("recipe_settings.")]
    different = [name for name in different if name not in NOT_TRAINING]
    if args.json:
        print_json(
            {
                "settings": {
                    name: {label: config.get(name) for label, config in configs.items()} for name in different
                },
                "metrics": {
                    name: {label: {"last": run.last(name), "best": run.best(name)} for label, run in labels.items()}
                    for name in chosen
                },
            }
        )
    else:
        rows = [(name, *(str(config.get(name, "-")) for config in configs.values())) for name in different]
        rows.append(("steps done", *(str(run.steps) for run in runs)))
        print_table(("<setting", *labels), rows)
        print_text()
        values = [
            (f"{name}, {which}", *(_cell(getattr(run, which)(name)) for run in runs))
            for name in chosen
            for which in (("last", "best") if "loss" in name else ("last",))
        ]
        print_table(("<metric", *labels), values)
    if args.plot is not None:
        if find_spec("matplotlib") is None:
            raise ValueError("plot: matplotlib is not installed (pip install 'narrowgauge[plots]')")
        from narrowgauge.commands.runs_plot import plot_runs

        note(f"written: {plot_runs(labels, chosen, args.plot)}")
    return 0


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings in tables under names with dots."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _labels(runs: list[Run]) -> dict[str, Run]:
    """Each run under its name, or under its path where two have one name."""
    names = [run.name for run in runs]
    labels = {str(run.folder) if names.count(run.name) > 1 else run.name: run for run in runs}
    if len(labels) < len(runs):
        raise ValueError("runs: the same run is given twice")
    return labels


def _cell(value: float | None) -> str:
    return "-" if value is None else number(float(value), 5)
