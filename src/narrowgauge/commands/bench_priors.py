"""`narrowgauge bench priors`: flags, table and files of the effects of generalized-Gaussian priors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import print_json, print_table, print_text
from narrowgauge.commands.priors_pipeline import SHAPE, add_model_flags, settings_of, train, write
from narrowgauge.commands.training_flags import add_files
from narrowgauge.commands.training_output import Collected, tell_pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from narrowgauge.bench.priors_effects import Check, Finding

SUMMARY = "what generalized-Gaussian priors do to a small Llama, each effect against its control, with a verdict"
DESCRIPTION = """\
Four claims about generalized-Gaussian priors, each beside its control on the same batches over several seeds: initial
weights of shape ν converge as fast as Gaussian ones or faster; BackSlash cuts Exp-Golomb bits per parameter by half at
2 % more loss at most, after fine-tuning; DeepShape lowers bits per parameter at matched loss; RF8 loses at most 0.5 %
of the loss of fp16. For every number: mean difference, interval of 95 % (Student's t), and whether it was shown, was
not shown at this scale, or came out the opposite way.

What is finished is kept in RUNS. A command that was interrupted, given again, goes on where it was, to the same bits;
given a second time while the first one works it shares the work.

examples:
  narrowgauge bench priors --out bench/results/priors.json --plot bench/results/priors.png
  narrowgauge bench priors --seeds 5 --shape 1 --shape 0.5
  narrowgauge bench priors --strength 1e-4 --mode in_loss --runs runs/in-loss
"""
HEADS = (
    "<effect",
    "<of",
    "<against",
    "<number",
    "treated",
    "control",
    "mean %",
    "<95 % interval",
    "limit %",
    "<verdict",
)


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("priors", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 … N-1 (default: %(default)s)")
    parser.add_argument("--shape", type=float, action="append", metavar="NU",
                        help="ν of initial weights; may be repeated, the first goes with the rate too "
                        f"(default: {SHAPE:g})")  # fmt: skip
    add_model_flags(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw a picture (.png, .svg, .pdf)")
    add_files(parser, "priors", save_every=200)


def run(args: argparse.Namespace) -> int:
    """Trains what is missing, prints every check, writes the files."""
    from narrowgauge.bench.priors_effects import plan, report
    from narrowgauge.bench.priors_run import PipelineResult
    from narrowgauge.bench.training_runs import finished_runs

    settings, shapes = settings_of(args), args.shape or [SHAPE]
    runs = plan(args.seeds, shapes, args.strength, args.mode)
    train(runs, settings, args, "bench priors")

    def collect() -> Collected:
        done = finished_runs(runs, args.runs, PipelineResult)
        content = report(done, len(runs) - len(done), settings, shapes, args.strength, args.mode)
        return content, lambda path: _draw(content["findings"], path)

    content = write(args, args.out or args.runs / "priors.json", collect)
    tell_pending(content["pending_runs"], len(runs))
    if args.json:
        print_json({name: value for name, value in content.items() if name != "runs"})
    else:
        print_findings(content["findings"])
    return 0


def _draw(findings: Sequence[Finding], path: Path) -> Path:
    from narrowgauge.bench.priors_plot import plot_effects

    return plot_effects(findings, path)


def print_findings(findings: Sequence[Finding]) -> None:
    """A line for each number, and one for each claim."""
    cells = [
        (finding.name, finding.treatment, finding.control, *_cells(check))
        for finding in findings
        for check in finding.checks
    ]
    print_table(HEADS, cells, title="differences to the control, percent")
    print_text()
    for finding in findings:
        seeds = ", ".join(map(str, finding.seeds))
        print_text(f"{finding.name} ({finding.treatment}): {finding.claim}: {finding.verdict} (seeds {seeds})")


def _cells(check: Check) -> tuple[str, ...]:
    effect = check.effect
    return (
        check.metric,
        "-" if check.treatment is None else f"{check.treatment:,.4g}",
        "-" if check.control is None else f"{check.control:,.4g}",
        "-" if effect is None else f"{effect.difference:+.2f}",
        "-" if effect is None else f"{effect.low:+.2f} … {effect.high:+.2f}",
        "-" if check.limit is None else f"{check.limit:+g}",
        check.verdict if check.judged or not check.verdict else f"({check.verdict})",
    )
