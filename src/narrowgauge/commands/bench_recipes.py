"""`narrowgauge bench recipes`: flags, table and files of the training suite for recipes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, print_json, print_table, print_text
from narrowgauge.commands.training_flags import add_files, add_settings, settings_of
from narrowgauge.commands.training_output import Collected, tell_finished, tell_pending, write_files
from narrowgauge.commands.training_progress import RunsProgress

if TYPE_CHECKING:
    from narrowgauge.bench.recipes_report import Comparison
    from narrowgauge.bench.recipes_run import RecipeResult, RecipeRun

SUMMARY = "train a small Llama with every recipe, beside fp32 and bf16"
DESCRIPTION = """\
Train the same Llama on the same batches with every recipe, for several seeds, and compare the final validation loss
with fp32's: within 1 % for recipes of 8 bits and more, within 5 % for fewer, or the row says why. OUT gets settings,
hardware, losses and curves as JSON, and where matplotlib is installed a picture is put beside it (.png).

What is finished is kept in RUNS. A command that was interrupted, given again, goes on where it was, to the same bits.
The same command started a second time while the first one works shares its work: one process for each core, with one
thread each, is the quickest way. A recipe that was changed is trained anew, the others are kept.

Two runs that differ by one rounding end at different losses. How far apart is said by twins of fp32, from initial
weights that differ by 1e-7 of themselves (fp32-perturbed) and by 1e-2, as rounding to 8 bits would move them
(fp32-moved): gaps as large as theirs are chance.

examples:
  narrowgauge bench recipes --out bench/results/recipes.json
  narrowgauge bench recipes --recipe fp8_row --recipe mxfp8 --seeds 3
  narrowgauge bench recipes --recipe mine.toml --recipe int4/1x32+sr
  narrowgauge bench recipes --recipe fp8_row --dim 64 --ffn-dim 192 --steps 50 --seeds 1 --runs runs/quick

mine.toml, a recipe of your own (slots that are not named stay in high precision):
  every = "mxfp4"
  g = "mxfp8_e5m2"
"""

SETTINGS: dict[str, Any] = {
    "steps": 300,
    "dim": 128,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "ffn_dim": 384,
    "seq_len": 128,
    "batch_size": 4,
    "lr": 6e-4,
    "beta2": 0.95,
    "warmup": 0.1,
    "final_lr": 0.0,
    "weight_decay": 0.1,
    "perturbation": 1e-7,
    "displacement": 1e-2,
    "evaluations": 4,
    "curve_batches": 8,
    "final_windows": 256,
    "device": "cpu",
    "threads": 1,
}


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("recipes", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--recipe", action="append", metavar="RECIPE",
                        help="a name, a TOML file, or a scheme for all six slots; may be repeated (default: all)"
                        )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="seeds 0 … N-1 (default: %(default)s)")
    add_settings(parser, SETTINGS)
    add_files(parser, "recipes", save_every=100)


def run(args: argparse.Namespace) -> int:
    """Trains what is missing, prints the comparison, writes the files; 1 where a recipe could not be trained."""
    from narrowgauge.bench.recipes import choose, plan, run_all
    from narrowgauge.bench.recipes_plot import plot
    from narrowgauge.bench.recipes_report import report
    from narrowgauge.bench.recipes_run import RecipeResult, RecipeSettings
    from narrowgauge.bench.training_runs import finished_runs

    settings = RecipeSettings(**settings_of(args, SETTINGS))
    columns = choose(args.recipe)
    runs = plan(columns, args.seeds)
    note(f"{len(runs)} runs of {settings.steps} steps; Llama, {settings.num_parameters():,} parameters; in {args.runs}")
    failures: dict[str, str] = {}
    tell = tell_finished(len(runs))

    def failed(run: RecipeRun, error: Exception) -> None:
        failures[str(run)] = f"{type(error).__name__}: {error}"
        note(f"{run}: {failures[str(run)]}")

    with progress("recipes") as show:
        bar = RunsProgress(show, settings.steps, len(runs), len(finished_runs(runs, args.runs, RecipeResult)))

        def finished(result: RecipeResult, done: int) -> None:
            tell(result, done)
            bar.finished(done)

        run_all(runs, columns, settings, args.runs, save_every=args.save_every, logger=bar.logger, finished=finished,
                failed=failed)  # fmt: skip

    def collect() -> Collected:
        done = finished_runs(runs, args.runs, RecipeResult)
        content = report(done, len(runs) - len(done), settings, columns, failures)
        compared: list[Comparison] = content["comparisons"]
        if all(c.mean_gap_percent is None for c in compared if c.recipe != "fp32"):
            return content, None
        return content, lambda path: plot(compared, done, settings, path)

    content = write_files(args.runs, args.out or args.runs / "recipes.json", collect)
    tell_pending(content["pending_runs"] - len(failures), len(runs))
    if args.json:
        print_json({name: value for name, value in content.items() if name != "runs"})
    else:
        _print(content)
    return 1 if failures else 0


def _print(content: Mapping[str, Any]) -> None:
    comparisons: list[Comparison] = content["comparisons"]
    rows = [
        (
            c.recipe,
            _bits(c),
            "-" if c.mean_loss is None else f"{c.mean_loss:.4f}",
            "-" if c.recipe == "fp32" else " ".join(_percent(gap, 2) for gap in c.gaps_percent),
            "-" if c.recipe == "fp32" else _percent(c.mean_gap_percent, 3),
            "-" if c.recipe == "fp32" or c.standard_error_percent is None else f"{c.standard_error_percent:.3f}",
            f"{c.step_ratio:.2f}",
            c.verdict
            if c.is_clear or c.limit_percent is None or c.mean_gap_percent is None
            else f"{c.verdict}, not clear",
            c.why or c.source,
        )
        for c in comparisons
    ]
    heads = (
        "<recipe",
        "bits",
        "final loss",
        "gap % of each seed",
        "mean %",
        "± s.e.",
        "step × fp32",
        "<",
        "<why, or source",
    )
    unigram = content["unigram_loss"]
    print_table(heads, rows, title=f"final validation loss (nats per byte; byte frequencies alone: {unigram:.3f})")
    for twin, noise in content["noise_floor_percent"].items():
        print_text(f"noise: fp32 and {twin} end {noise:.3f} % apart (root mean square)")
    for name, reason in content["failed"].items():
        print_text(f"failed: {name}: {reason}")


def _percent(gap: float | None, digits: int) -> str:
    return "diverged" if gap is None else f"{gap:+.{digits}f}"


def _bits(c: Comparison) -> str:
    """Narrowest and widest quantised operand (or grid of the weights), and how many of the six are quantised."""
    if not c.bits:
        return "-"
    low, high = min(c.bits.values()), max(c.bits.values())
    operands = len(c.bits.keys() - {"update"})
    return (f"{low}" if low == high else f"{low}-{high}") + ("" if operands == 6 else f" ({operands} of 6)")
