"""`narrowgauge train`: flags of the training loop."""

from __future__ import annotations

import argparse

from narrowgauge.commands.output import note, print_json, print_table
from narrowgauge.commands.train_config import FIELDS, merge, read_toml

SUMMARY = "train a small Llama on text, in any recipe, with checkpoints"
DESCRIPTION = """\
Train a small Llama on bytes of text. Settings come from a TOML file, and flags go over it; in the file they have the
names of the flags (steps = 1000, seq_len = 256, methods = ["ema:decay=0.99"]).

The run's folder gets config.json, metrics.jsonl (a line a step) and checkpoint/. With --resume, training continues
at the checkpoint, to the same bits as without the interruption; settings that are others than before are named.

examples:
  narrowgauge train --steps 200
  narrowgauge train --data my_text/ --model small --recipe mxfp8 --out runs/mine
  narrowgauge train --recipe mine.toml
  narrowgauge train run.toml --seed 1
  narrowgauge train run.toml --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge train`; None where a flag was not given."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.toml", help="settings; flags go over them")
    texts = {
        "data": "text file, or folder of text files (default: the standard library's sources)",
        "model": "tiny, demo, small or base",
        "recipe": "how the linear layers are quantised: a name of `narrowgauge recipes`, or a TOML file with a recipe",
        "state": "how AdamW stores its moments: log8, log4, coat, fp8, int8, bf16, fp32 …, or a scheme (nf4/1x128)",
        "steps": "optimizer steps in all",
        "batch_size": "windows in a batch",
        "seq_len": "bytes in a window",
        "lr": "peak learning rate, reached after the warm-up and followed by a cosine",
        "warmup": "steps of the warm-up",
        "weight_decay": "AdamW's decoupled weight decay, of matrices only",
        "seed": "initial weights, order of the data, random rounding",
        "eval_every": "steps between evaluations",
        "save_every": "steps between checkpoints",
        "out": "folder of the run (default: runs/MODEL-RECIPE)",
        "device": "cpu, cuda, cuda:1 … (default: cuda where there is one)",
    }
    for name, text in texts.items():
        default = FIELDS[name].default
        kind = str if default is None else type(default)
        shown = text if default is None else f"{text} (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=name.upper(), help=shown)
    parser.add_argument("--method", action="append", dest="methods", metavar="NAME[:key=value,…]",
                        help="a training method (see narrowgauge methods list); may be repeated")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue at the checkpoint in the run's folder")
    parser.add_argument("--json", action="store_true", help="print the configuration and the last metrics as JSON")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the last metrics."""
    flags = {name: getattr(args, name) for name in FIELDS}
    flags["methods"] = tuple(args.methods) if args.methods else None
    config = merge(read_toml(args.config) if args.config else {}, flags)
    from narrowgauge.commands.train_run import train
    from narrowgauge.nn import get_recipe

    for name in FIELDS:
        note(f"{name:>13} = {config.folder if name == 'out' else getattr(config, name)}")
    recipe = get_recipe(config.recipe)
    if recipe.update is not None:
        note(f"weights are kept on the grid {recipe.update} by GridWeights")
    if recipe.advice:
        note(f"beside its layers, {recipe.name} asks for (nothing but GridWeights is done here): {recipe.advice}")
    metrics = train(config, resume=args.resume)
    if args.json:
        print_json({"config": config, "out": config.folder, "metrics": metrics})
    else:
        print_table(("<metric", "at the end"), [(name, f"{value:.4f}") for name, value in metrics.items()])
        note(f"written: {config.folder}/config.json, metrics.jsonl, checkpoint/")
    return 0
