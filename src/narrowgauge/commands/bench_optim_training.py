"""`narrowgauge bench optim-training`: flags, table and files of the training suite for optimizer states."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import note, print_json, print_table, print_text
from narrowgauge.commands.training_flags import add_files, add_settings, settings_of
from narrowgauge.commands.training_output import Collected, tell_finished, tell_pending, write_files

if TYPE_CHECKING:
    from narrowgauge.bench.optim_training_report import Comparison

SUMMARY = "train a Llama of 10 M parameters with each optimizer state, against fp32 AdamW"
DESCRIPTION = """\
Train the same Llama on the same batches with each optimizer state, for several seeds and values of β2, and compare the
final validation loss with that of torch's fp32 AdamW. OUT gets settings, hardware, losses and curves as JSON, and where
matplotlib is installed a picture of the curves is put beside it (.png).

What is finished is kept in RUNS. A command that was interrupted, given again, goes on where it was, to the same bits.
The same command started a second time while the first one works shares its work: one process for each core, with one
thread each, is the quickest way.

Two runs that differ by one rounding end at different losses. --noise-floor adds a run of fp32 from initial weights that
differ by 1e-7 of themselves: gaps as large as that one's are chance.

examples:
  narrowgauge bench optim-training --noise-floor --out bench/results/optim-training.json
  narrowgauge bench optim-training --state int8 --state bf16 --beta2 0.99 --seeds 5
  narrowgauge bench optim-training --dim 64 --num-layers 2 --ffn-dim 192 --steps 50 --seeds 1 --runs runs/quick
"""

SETTINGS: dict[str, Any] = {
    "steps": 1000,
    "dim": 512,
    "num_layers": 4,
    "num_heads": 8,
    "num_kv_heads": 4,
    "ffn_dim": 1088,
    "seq_len": 64,
    "batch_size": 2,
    "lr": 4e-4,
    "warmup": 0.1,
    "final_lr": 0.0,
    "weight_decay": 0.1,
    "evaluations": 8,
    "curve_batches": 16,
    "final_windows": 512,
    "device": "cpu",
    "threads": 1,
}


def add_parser(suites: Any) -> None:
    """Adds the suite to the suites of `narrowgauge bench`."""
    parser = suites.add_parser("optim-training", help=SUMMARY, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add = parser.add_argument
    add("--state", action="append", metavar="NAME", help="a state to compare with fp32, which is always there; may be "
        "repeated (default: coat and log8)")  # fmt: skip
    add("--beta2", action="append", type=float, metavar="B", help="may be repeated (default: 0.95 and 0.999)")
    add("--seeds", type=int, default=3, metavar="N", help="seeds 0 … N-1 (default: %(default)s)")
    add("--noise-floor", action="store_true", help="also fp32 from weights perturbed in their last bit")
    add_settings(parser, SETTINGS)
    add("--limit", type=float, default=0.2, metavar="PERCENT", help="the gap that is judged (default: %(default)s)")
    add_files(parser, "optim-training", save_every=200)


def run(args: argparse.Namespace) -> int:
    """Trains what is missing, prints the comparison, writes the files."""
    from narrowgauge.bench.optim_training import DEFAULT_BETA2, DEFAULT_STATES, plan, run_all
    from narrowgauge.bench.optim_training_report import compare, noise_floor, plot, report
    from narrowgauge.bench.optim_training_run import RunResult
    from narrowgauge.bench.training_run import TrainingSettings
    from narrowgauge.bench.training_runs import finished_runs
    from narrowgauge.train import ConsoleLogger

    settings = TrainingSettings(**settings_of(args, SETTINGS))
    runs = plan(args.state or DEFAULT_STATES, args.beta2 or DEFAULT_BETA2, args.seeds, noise_floor=args.noise_floor)
    compare([], args.limit)  # a limit that cannot be is noticed now, not at the end
    note(f"{len(runs)} runs of {settings.steps} steps; Llama, {settings.num_parameters():,} parameters; in {args.runs}")
    run_all(runs, settings, args.runs, save_every=args.save_every,
            logger=lambda label: ConsoleLogger(label, every=100), finished=tell_finished(len(runs)))  # fmt: skip

    def collect() -> Collected:
        done = finished_runs(runs, args.runs, RunResult)
        content = report(done, len(runs) - len(done), settings, args.limit)
        if all(c.mean_gap_percent is None for c in content["comparisons"]):
            return content, None
        return content, lambda path: plot(done, settings, path, args.limit)

    content = write_files(args.runs, args.out or args.runs / "optim-training.json", collect)
    tell_pending(content["pending_runs"], len(runs))
    if args.json:
        print_json({name: value for name, value in content.items() if name != "runs"})
    else:
        _print(content["comparisons"], noise_floor(content["comparisons"]), args.limit)
    return 0


def _print(comparisons: list[Comparison], floor: dict[float, float], limit: float) -> None:
    rows = []
    for c in comparisons:
        gaps = " ".join("diverged" if gap is None else f"{gap:+.2f}" for gap in c.gaps_percent)
        is_baseline = c.state == "fp32"
        rows.append((
            f"{c.beta2:g}",
            c.state,
            f"{c.state_bytes_per_param:.3f}",
            "-" if c.mean_loss is None else f"{c.mean_loss:.4f}",
            "-" if is_baseline else gaps,
            "-" if is_baseline or c.mean_gap_percent is None else f"{c.mean_gap_percent:+.3f}",
            "-" if is_baseline or c.standard_error_percent is None else f"{c.standard_error_percent:.3f}",
            f"{c.step_ms:.0f}",
            _judgement(c),
        ))  # fmt: skip
    heads = ("β2", "<state", "bytes/param", "final loss", "gap % of each seed", "mean %", "± s.e.", "ms/step", "<")
    print_table(heads, rows, title=f"final validation loss (nats per byte) against fp32 AdamW, limit {limit:g} %")
    for beta2, value in floor.items():
        print_text(f"noise at β2 = {beta2:g}: fp32 and its perturbed twin end {value:.3f} % apart (root mean square)")


def _judgement(c: Comparison) -> str:
    if c.state == "fp32":
        return "baseline"
    if c.state == "fp32-perturbed":
        return "chance alone"
    return c.verdict if c.is_clear or c.verdict == "diverged" else f"{c.verdict}, not clear"
