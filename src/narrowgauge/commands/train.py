"""`narrowgauge train`: a run of the training loop, from a TOML file and flags."""

from __future__ import annotations

import argparse
from pathlib import Path

from narrowgauge.commands.output import note, print_json, print_table, print_text
from narrowgauge.commands.train_config import merge, read_toml
from narrowgauge.commands.train_flags import add_settings, given

SUMMARY = "train a small Llama on text, in any recipe, with checkpoints"
DESCRIPTION = """\
Train a small Llama on text, by bytes or by tokens of your own. Settings come from a TOML file, and flags go over it. In
the file they have the names of the flags: steps = 1000, seq_len = 256, methods = ["ema:decay=0.99"]; --sizes-num-layers
6 is num_layers = 6 in the table [sizes]. --print-config writes such a file.

The run's folder gets config.toml (give it back to train), config.json, metrics.jsonl (a line a step), checkpoint/ and
curves.png. Training that is resumed gives the same bits as without the interruption; settings that are others than
before are named.

examples:
  narrowgauge train --steps 200
  narrowgauge train --data my_text/ --model small --recipe mxfp8 --out runs/mine
  narrowgauge train --data code=0.7,docstrings=0.3 --sizes-num-layers 6 --grad-accumulation 4
  narrowgauge train --data corpus.jsonl --tokenizer bpe:bpe.json --early-stopping-patience 3
  narrowgauge train --recipe mine.toml --method ema:decay=0.99 --loggers console,jsonl,csv
  narrowgauge train --model medium --steps 2000 --print-config > run.toml
  narrowgauge train run.toml --seed 1
  narrowgauge train run.toml --resume auto
  torchrun --standalone --nproc-per-node 2 -m narrowgauge train run.toml --parallel ddp
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge train`; None where a setting was not given."""
    parser.usage = "narrowgauge train [CONFIG.toml] [--resume [auto|PATH]] [--print-config] [--json] [--FLAG VALUE …]"
    parser.add_argument("config", nargs="?", metavar="CONFIG.toml", help="settings; flags go over them")
    parser.add_argument(
        "--resume", nargs="?", const="newest", metavar="auto|PATH",
        help="go on at the newest checkpoint of the run's folder; auto: at the newest that is whole, or begin where"
        " there is none; PATH: at that checkpoint, or at the newest of that run's folder",
    )  # fmt: skip
    parser.add_argument("--print-config", action="store_true", help="print all settings as TOML, and train nothing")
    parser.add_argument("--json", action="store_true", help="print the configuration and the last metrics as JSON")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the last metrics."""
    file, resume = args.config, args.resume
    if file is None and resume is not None and resume.endswith(".toml") and not Path(resume).is_dir():
        file, resume = resume, "newest"  # `--resume run.toml`: a checkpoint is a folder
    config = merge(read_toml(file) if file else {}, given(args))
    from narrowgauge.commands.train_toml import to_toml

    if args.print_config:
        print_text(to_toml(config).rstrip("\n"))
        return 0
    from narrowgauge.commands.train_run import join_processes, train
    from narrowgauge.nn import get_recipe

    prints = join_processes(config)
    recipe = get_recipe(config.recipe)
    if prints:
        note(to_toml(config.placed))
        if recipe.update is not None:
            note(f"weights are kept on the grid {recipe.update} by GridWeights")
        if recipe.advice:
            note(f"beside its layers, {recipe.name} asks for (nothing but GridWeights is done here): {recipe.advice}")
    trained = train(config, resume=resume)
    if not prints:
        return 0
    if trained.stopped:
        rule = config.early_stopping
        note(f"stopped early after {trained.steps} of {config.steps} steps: {rule.metric} was not better in"
             f" {rule.patience} evaluations")  # fmt: skip
    if args.json:
        print_json({"config": config, "out": config.folder, "metrics": trained.metrics, "steps": trained.steps,
                    "stopped_early": trained.stopped})  # fmt: skip
    else:
        print_table(("<metric", "at the end"), [(name, f"{value:.4f}") for name, value in trained.metrics.items()])
        written = sorted(path.name + "/" * path.is_dir() for path in config.folder.iterdir())
        note(f"written: {config.folder}/ with {', '.join(name for name in written if not name.startswith('.'))}")
    return 0
