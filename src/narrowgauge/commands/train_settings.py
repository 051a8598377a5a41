"""Settings of `narrowgauge train`, said once: a field of :class:`TrainConfig` is a key of the TOML file and a flag.

`early_stopping.patience` is `patience` in the table `[early_stopping]`, and the flag `--early-stopping-patience`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

GROUPS = {
    "data": "what is read",
    "model": "what is trained",
    "numbers": "in which number formats",
    "steps": "how it is trained",
    "evaluation": "when it is evaluated, and when it stops early",
    "files": "what the run leaves in its folder",
    "machine": "where it runs",
}
"""Groups of settings, in the order of `--help`."""


def setting(default: Any, group: str, text: str, choices: Sequence[str] = ()) -> Any:
    """A field with its help. choices: the only values that it takes; of a tuple, those of its items."""
    return field(default=default, metadata={"group": group, "text": text, "choices": tuple(choices)})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What differs from the preset, by the names of LlamaConfig; None: as in the preset."""

    dim: int | None = setting(None, "model", "width")
    num_layers: int | None = setting(None, "model", "blocks")
    num_heads: int | None = setting(None, "model", "heads of the queries")
    num_kv_heads: int | None = setting(None, "model", "heads of keys and values, a divisor of the others")
    ffn_dim: int | None = setting(None, "model", "width inside the feed-forward layers")
    max_seq_len: int | None = setting(None, "model", "longest context (at least seq_len)")
    rope_theta: float | None = setting(None, "model", "base of the rotary positions")
    norm_eps: float | None = setting(None, "model", "epsilon of the normalisations")
    tie_embeddings: bool | None = setting(None, "model", "one matrix for embedding and head")


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When a run ends before its steps are done."""

    patience: int = setting(0, "evaluation", "evaluations in a row without a better one that end the run, 0: never")
    min_delta: float = setting(0.0, "evaluation", "by how much one has to be better")
    metric: str = setting("val_loss", "evaluation", "what is watched")
    mode: str = setting("min", "evaluation", "whether less or more is better", ("min", "max"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; every field has its text in `narrowgauge train --help`.

    None is the default that the text names. Raises ValueError, with the nearest value, for one that a field does not
    take; what has to fit together is checked when the run is built.
    """

    data: str | None = setting(
        None, "data",
        "a text file, .jsonl, .parquet or a folder of them; a domain of the standard library (code, docstrings, tests,"
        " topics, licence, html); or a mixture of these, code=0.7,docstrings=0.3 (code=1..0.2: the weight moves from 1"
        " to 0.2 over the run); default: the standard library's sources",
    )  # fmt: skip
    text_field: str = setting("text", "data", "where a line of JSON or a row of Parquet has its text")
    max_bytes: int = setting(0, "data", "read at most so much of each source, 0: all (a domain: 1 MB, the library: 8)")
    tokenizer: str = setting("bytes", "data", "bytes, or bpe:FILE with a tokenizer of narrowgauge.train.Bpe")
    batch_size: int = setting(8, "data", "windows in a batch, over all processes")
    seq_len: int = setting(128, "data", "tokens in a window")
    seed: int = setting(0, "data", "initial weights, order of the data, random rounding")
    model: str = setting("demo", "model", "a preset: tiny, demo, small, medium, base, 1b (0.1 M to 1 B parameters)")
    sizes: Sizes = Sizes()
    recipe: str = setting(
        "fp8_row", "numbers",
        "how the linear layers are quantised: a name of `narrowgauge recipes`, or a TOML file with a recipe",
    )  # fmt: skip
    state: str = setting(
        "log8", "numbers",
        "how AdamW stores its moments: log8, log4, coat, fp8, int8, bf16, fp32 …, or a scheme (nf4/1x128)",
    )  # fmt: skip
    dtype: str = setting(
        "float32", "numbers", "of the forward's matrix products; weights stay float32", ("float32", "bfloat16")
    )
    steps: int = setting(500, "steps", "optimizer steps in all")
    grad_accumulation: int = setting(1, "steps", "batches whose gradients make one step")
    lr: float = setting(1e-3, "steps", "peak learning rate, reached after the warm-up")
    schedule: str = setting("cosine", "steps", "what follows the warm-up", ("cosine", "constant"))
    warmup: int = setting(50, "steps", "steps of the warm-up")
    final_ratio: float = setting(0.1, "steps", "last learning rate of the cosine over the peak")
    weight_decay: float = setting(0.1, "steps", "AdamW's decoupled weight decay, of matrices only")
    clip_norm: float = setting(1.0, "steps", "gradients are clipped to this norm over all parameters, 0: never")
    methods: tuple[str, ...] = setting(
        (), "steps",
        "a training method, NAME or NAME:key=value,key=value (see narrowgauge methods list); may be repeated",
    )  # fmt: skip
    eval_every: int = setting(100, "evaluation", "steps between evaluations, 0: never")
    validation_batches: int = setting(8, "evaluation", "batches of an evaluation (of each source of a mixture)")
    early_stopping: Stopping = Stopping()
    save_every: int = setting(100, "files", "steps between checkpoints, 0: none")
    keep: int = setting(2, "files", "checkpoints that stay: the newest, and those before it")
    loggers: tuple[str, ...] = setting(
        ("console", "jsonl"), "files",
        "where metrics go, separated by commas; jsonl is read by the plot and by `narrowgauge runs`",
        ("console", "jsonl", "csv", "tensorboard"),
    )  # fmt: skip
    log_every: int = setting(50, "files", "steps between lines on a console that is no terminal")
    plot: bool = setting(True, "files", "draw the curves after the run (needs the extra plots)")
    out: str | None = setting(None, "files", "folder of the run; default: runs/MODEL-RECIPE")
    device: str | None = setting(None, "machine", "cpu, cuda, cuda:1 …; default: cuda where there is one")
    compile: bool = setting(False, "machine", "compile the model (torch.compile)")
    parallel: str | None = setting(
        None, "machine", "one run in all processes of a torchrun: replicas, or everything in shards", ("ddp", "fsdp2")
    )

    def __post_init__(self) -> None:
        for name, owner in (("", self), ("early_stopping.", self.early_stopping)):
            for each in fields(owner):
                value = getattr(owner, each.name)
                for item in value if isinstance(value, tuple) else (value,):
                    check_choice(f"{name}{each.name}", item, each.metadata.get("choices", ()))
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: expected a finite number above 0, got {self.lr!r}")
        for name in ("max_bytes", "clip_norm", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)!r}")
        if self.early_stopping.patience < 0:
            raise ValueError(f"early_stopping.patience: expected 0 or more, got {self.early_stopping.patience}")
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers: expected each once, got {', '.join(self.loggers)}")

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        if self.out is not None:
            return Path(self.out)
        return Path("runs") / f"{self.model}-{Path(self.recipe).name.removesuffix('.toml')}"

    @property
    def placed(self) -> TrainConfig:
        """The same with the folder as `out`, whatever the defaults are."""
        return replace(self, out=str(self.folder))


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """ValueError, with the nearest, for a value that is not None and none of the choices, if there are any."""
    if value is None or not choices or value in choices:
        return
    near = get_close_matches(str(value), choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}: expected {' or '.join(choices)}, got {value!r}{hint}")
