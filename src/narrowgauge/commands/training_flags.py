"""Flags for the settings of a suite that trains; each suite has defaults of its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Name of the setting: what a value is called, what it means.
_TEXTS = {
    "steps": ("N", "optimizer steps of each run"),
    "dim": ("N", "width of the model"),
    "num_layers": ("N", "blocks of the model"),
    "num_heads": ("N", "query heads"),
    "num_kv_heads": ("N", "key and value heads"),
    "ffn_dim": ("N", "hidden width of the MLP"),
    "seq_len": ("N", "bytes in a window"),
    "batch_size": ("N", "windows in a batch"),
    "lr": ("LR", "peak learning rate, after a linear warm-up and before a cosine"),
    "beta2": ("B", "AdamW's β2"),
    "warmup": ("SHARE", "the warm-up's share of the steps"),
    "final_lr": ("SHARE", "where the cosine ends, as a share of the peak"),
    "weight_decay": ("W", "decoupled weight decay, of matrices only"),
    "perturbation": ("P", "how far the weights of fp32-perturbed are moved, as a share of themselves"),
    "displacement": ("S", "the same for fp32-moved"),
    "evaluations": ("N", "points of the validation curve"),
    "curve_batches": ("N", "batches of the validation curve"),
    "final_windows": ("N", "windows of the final validation loss"),
    "device": ("DEVICE", "cpu, cuda, cuda:1 …"),
    "threads": ("N", "CPU threads of this process"),
}


def add_settings(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """A flag for each setting that `defaults` names."""
    for name, default in defaults.items():
        metavar, text = _TEXTS[name]
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar=metavar,
                            help=f"{text} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--data", metavar="PATH",
                        help="text file, or folder of text files (default: the standard library's sources)"
                        )  # fmt: skip


def settings_of(args: argparse.Namespace, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, by name."""
    return {"data": args.data, **{name: getattr(args, name) for name in defaults}}


def add_files(parser: argparse.ArgumentParser, suite: str, *, save_every: int) -> None:
    """The flags for checkpoints, the runs' folder, the result's file, and JSON on stdout."""
    add = parser.add_argument
    add("--save-every", type=int, default=save_every, metavar="N",
        help="steps between checkpoints (default: %(default)s)")  # fmt: skip
    add("--runs", type=Path, default=Path("runs") / suite, metavar="DIR",
        help="where runs are kept (default: %(default)s)")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help=f"JSON file of the results (default: {suite}.json in RUNS)")
    add("--json", action="store_true", help="print one JSON object instead of the table")
