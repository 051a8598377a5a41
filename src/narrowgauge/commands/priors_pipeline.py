"""`narrowgauge priors pipeline`: flags, table and files of the pipeline of generalized-Gaussian priors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, print_json, print_table, print_text
from narrowgauge.commands.training_flags import add_files
from narrowgauge.commands.training_output import Collected, tell_finished, tell_pending
from narrowgauge.commands.training_progress import RunsProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from narrowgauge.bench.priors_pipeline import Row
    from narrowgauge.bench.priors_run import PipelineResult, PipelineRun, PipelineSettings

SUMMARY = "train, fine-tune, reshape and store a small Llama with generalized-Gaussian priors, beside the baseline"
DESCRIPTION = """\
The whole pipeline on a small Llama, stage by stage: initial weights of shape ν, training that pays for bits
(BackSlash), fine-tuning, DeepShape, an RF8 file with Exp-Golomb codes, which is read back and evaluated. Beside it, on
the same batches, the baseline: Gaussian initial weights, no rate, files in fp16 and E4M3. The table has, for each
stage, the size of its file, bits per parameter, validation loss and speed, means over the seeds.

What is finished is kept in RUNS. A command that was interrupted, given again, goes on where it was, to the same bits.

examples:
  narrowgauge priors pipeline
  narrowgauge priors pipeline --seeds 3 --json
  narrowgauge priors pipeline --strength 1e-4 --shape 0.5 --plot pipeline.png --runs runs/other
  narrowgauge priors pipeline --steps 200 --fine-tune-steps 100 --runs runs/quick
"""
SHAPE, STRENGTH, MODE = 1.0, 2e-4, "decoupled"
MODES = ("decoupled", "in_loss")
HEADS = (
    "<run", "<stage", "<file", "kB", "bits/param", "codes", "EG 0", "EG best", "<k", "entropy", "zeros %", "loss",
    "% over fp16", "s", "tokens/s", "trained/s",
)  # fmt: skip
_FLAGS: dict[str, tuple[Any, str, str]] = {
    "steps": (1000, "N", "steps of training under the rate"),
    "fine_tune_steps": (1000, "N", "steps of fine-tuning without it"),
    "recover_steps": (200, "N", "steps after DeepShape"),
    "dim": (128, "N", "width of the model"),
    "num_layers": (2, "N", "blocks of the model"),
    "num_heads": (4, "N", "query heads"),
    "num_kv_heads": (2, "N", "key and value heads"),
    "ffn_dim": (384, "N", "hidden width of the MLP"),
    "seq_len": (64, "N", "bytes in a window"),
    "batch_size": (8, "N", "windows in a batch"),
    "lr": (2e-3, "LR", "peak learning rate of training"),
    "final_lr": (0.3, "SHARE", "where training ends, as a share of the peak; the other phases end at 0"),
    "fine_tune_lr": (2e-3, "LR", "that of fine-tuning"),
    "recover_lr": (5e-4, "LR", "that after DeepShape"),
    "every": (5, "N", "steps between estimates of ν"),
    "step_bits": (8, "n", "weights are rounded to multiples of 2^-n; also the bias of the RF8 file"),
    "shape_scale": (0.8, "S", "factor of the shape that DeepShape gives"),
    "evaluations": (10, "N", "points of the validation curve"),
    "curve_batches": (16, "N", "batches of the validation curve"),
    "final_windows": (256, "N", "windows of the validation loss of a stage"),
    "threads": (1, "N", "CPU threads of this process"),
}


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the runs, which the command shares with `narrowgauge bench priors`."""
    parser.add_argument("--strength", type=float, default=STRENGTH, metavar="S",
                        help="λ/N: what a weight feels of BackSlash (default: %(default)s)")  # fmt: skip
    parser.add_argument("--mode", choices=MODES, default=MODE, help="of BackSlash (default: %(default)s)")
    for name, (default, metavar, text) in _FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar=metavar,
                            help=f"{text} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--data", metavar="PATH",
                        help="text file, or folder of text files (default: the standard library's sources)"
                        )  # fmt: skip


def settings_of(args: argparse.Namespace) -> PipelineSettings:
    """The settings that were given."""
    from narrowgauge.bench.priors_run import PipelineSettings

    return PipelineSettings(data=args.data, **{name: getattr(args, name) for name in _FLAGS})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 … N-1 (default: %(default)s)")
    parser.add_argument("--shape", type=float, default=SHAPE, metavar="NU",
                        help="ν of the initial weights, 2 for Gaussian ones (default: %(default)s)")  # fmt: skip
    add_model_flags(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw a picture (.png, .svg, .pdf)")
    parser.add_argument("--file", type=Path, metavar="FILE",
                        help="where to put the RF8 file of the last stage of seed 0 (.ngz)")  # fmt: skip
    add_files(parser, "priors-pipeline", save_every=200)


def run(args: argparse.Namespace) -> int:
    """Trains what is missing, prints the table, writes the files."""
    from narrowgauge.bench.priors_pipeline import plan, report
    from narrowgauge.bench.training_runs import finished_runs

    settings = settings_of(args)
    runs = plan(args.seeds, args.shape, args.strength, args.mode)
    results = train(runs, settings, args, "priors pipeline")

    def collect() -> Collected:
        from narrowgauge.bench.priors_run import PipelineResult

        done = finished_runs(runs, args.runs, PipelineResult)
        content = report(done, len(runs) - len(done), settings)
        return content, lambda path: _draw(content["rows"], done, path)

    content = write(args, args.out or args.runs / "priors-pipeline.json", collect)
    tell_pending(content["pending_runs"], len(runs))
    if args.file is not None:
        _give(args, runs[1])
    if args.json:
        print_json({name: value for name, value in content.items() if name != "runs"})
        return 0
    print_rows(content["rows"])
    for result in results:
        if result.note:
            print_text(f"{result.run}: {result.note}")
    return 0


def train(
    runs: Sequence[PipelineRun], settings: PipelineSettings, args: argparse.Namespace, title: str
) -> list[PipelineResult]:
    """Trains what is missing under a bar; tells each run that ends."""
    from narrowgauge.bench.priors_pipeline import run_all
    from narrowgauge.bench.priors_run import PipelineResult
    from narrowgauge.bench.training_runs import finished_runs

    note(
        f"{len(runs)} runs of {settings.total_steps} steps; Llama, {settings.num_parameters():,} parameters; "
        f"in {args.runs}"
    )
    tell = tell_finished(len(runs))
    with progress(title) as show:
        bar = RunsProgress(show, settings.total_steps, len(runs), len(finished_runs(runs, args.runs, PipelineResult)))

        def finished(result: PipelineResult, done: int) -> None:
            tell(result, done)
            bar.finished(done)

        return run_all(runs, settings, args.runs, save_every=args.save_every, logger=bar.logger, finished=finished)


def write(args: argparse.Namespace, out: Path, collect: Any) -> Any:
    """Writes the document, and the picture where `--plot` asks for one."""
    from narrowgauge.bench.report import write_json
    from narrowgauge.bench.run_lock import exclusive

    with exclusive(args.runs / "report.lock", wait=True):
        content, draw = collect()
        note(f"written: {write_json(out, content)}")
        if args.plot is not None:
            try:
                note(f"written: {draw(args.plot)}")
            except ImportError:
                raise ValueError("--plot: needs matplotlib: pip install 'narrowgauge[plots]'") from None
    return content


def _draw(rows: Sequence[Row], results: Sequence[PipelineResult], path: Path) -> Path:
    from narrowgauge.bench.priors_plot import plot_pipeline

    return plot_pipeline(rows, results, path)


def _give(args: argparse.Namespace, run: PipelineRun) -> None:
    """Copies the last stage's file."""
    from narrowgauge.atomic_files import replacing
    from narrowgauge.bench.priors_phases import MODEL

    stored = args.runs / run.name / MODEL
    if not stored.exists():
        raise ValueError(f"--file: {run} has no file: it is not finished, or it diverged")
    with replacing(args.file) as partial:
        partial.write_bytes(stored.read_bytes())
    note(f"written: {args.file}")


def print_rows(rows: Sequence[Row]) -> None:
    """The table."""
    cells = [
        (
            row.run,
            row.stage.state,
            row.stage.form,
            f"{row.stage.nbytes / 1000:.1f}",
            f"{row.file_bits:.2f}",
            "-" if row.stage.code_bits is None else f"{row.stage.code_bits:.2f}",
            f"{row.stage.exp_golomb_0:.2f}",
            f"{row.stage.exp_golomb:.2f}",
            "/".join(map(str, row.orders)),
            f"{row.stage.entropy:.2f}",
            f"{100 * row.stage.zeros:.1f}",
            f"{row.stage.loss:.4f}",
            "-" if row.loss_percent is None else f"{row.loss_percent:+.2f}",
            f"{row.stage.seconds:.1f}",
            f"{row.stage.tokens_per_s:,.0f}",
            "-" if row.stage.train_tokens_per_s is None else f"{row.stage.train_tokens_per_s:,.0f}",
        )
        for row in rows
    ]
    seeds = len({seed for row in rows for seed in row.seeds})
    print_table(HEADS, cells, title=f"stages of the pipeline and of its baseline, means of {seeds} seeds")
    print_text(
        "\nbits/param: of the file, all included; codes: of its codewords; EG 0, EG best, entropy: of the matrices "
        "rounded to\nthe step, coded as one; % over fp16: loss above that of the baseline's fp16 file after as many "
        "steps"
    )
