"""One training run of a suite that trains, which can be killed at any time and goes on to the same bits.

A run is a byte-level Llama trained under a linear warm-up and a cosine; what a suite compares is the model and the
optimizer that it hands in. Its folder holds `checkpoint/` and `metrics.jsonl` (a line a step) while it trains, and
`result.json` once it is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from narrowgauge.bench.machine import describe_machine
from narrowgauge.bench.report import write_json
from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    JsonlLogger,
    Llama,
    LlamaConfig,
    Logger,
    Trainer,
    WarmupCosine,
    cross_entropy,
)
from narrowgauge.train.method import Method
from narrowgauge.train.optimizers import OptimizerFactory

BASELINE = "fp32"
PERTURBED = "fp32-perturbed"
"""The baseline from initial weights that differ in the last bit: how far chance alone drives two runs apart."""

CURVE_POINTS = 100
VALIDATION_ROWS = 16
RESULT, METRICS, CHECKPOINT = "result.json", "metrics.jsonl", "checkpoint"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What all runs have in common. ValueError for sizes that do not fit.

    The model is trained on windows of seq_len bytes. warmup and final_lr: shares of steps and of lr. The curve's
    validation loss is measured `evaluations` times on curve_batches batches, the final one on final_windows windows.
    threads: part of the settings, as sums in another order are other bits.
    """

    dim: int = 512
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 4
    ffn_dim: int = 1088
    seq_len: int = 64
    batch_size: int = 2
    steps: int = 1000
    lr: float = 4e-4
    warmup: float = 0.1
    final_lr: float = 0.0
    beta1: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    perturbation: float = 1e-7
    evaluations: int = 8
    curve_batches: int = 16
    final_windows: int = 512
    data: str | None = None
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size", "steps", "evaluations", "curve_batches", "final_windows", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.final_windows % min(VALIDATION_ROWS, self.final_windows):
            raise ValueError(f"final_windows: expected a multiple of {VALIDATION_ROWS}, got {self.final_windows}")
        self.sizes()
        self.schedule()

    def sizes(self) -> LlamaConfig:
        """The model."""
        return LlamaConfig(
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            ffn_dim=self.ffn_dim,
            max_seq_len=self.seq_len,
        )

    def schedule(self) -> WarmupCosine:
        """Step → learning rate."""
        return WarmupCosine(self.lr, self.steps, round(self.warmup * self.steps), self.final_lr)

    def num_parameters(self) -> int:
        """Weights of the model."""
        return Llama(self.sizes()).num_parameters()


class TrainingRun(Protocol):
    """Which run of a suite: a frozen dataclass of plain values. `name` is that of its folder, `str()` for people."""

    @property
    def seed(self) -> int: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What every suite keeps of a run. Losses in nats per byte; final_loss None where it diverged, `note` says at which
    step.

    train_curve: (last step, mean training loss) of some hundred equal runs of steps; val_curve: (step, validation
    loss on the curve's batches). step_ms: median; seconds: of the training steps; machine as `bench.Machine`.
    """

    final_loss: float | None
    note: str
    train_curve: tuple[list[int], list[float]]
    val_curve: tuple[list[int], list[float]]
    step_ms: float
    seconds: float
    machine: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trained(Outcome):
    """The outcome of `run`; a suite's own results add what it measures besides."""

    run: Any


Kept = TypeVar("Kept", bound=Trained)


def initial_model(seed: int, settings: TrainingSettings, perturbation: float = 0.0) -> Llama:
    """The initial model, a function of the seed; p · (1 + perturbation · N(0, 1)) is beside it."""
    model = Llama(settings.sizes(), seed=seed)
    if perturbation:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                p.copy_(p.double() * (1 + perturbation * noise))
    return model


def stream(seed: int, settings: TrainingSettings, corpus: ByteCorpus) -> BatchStream:
    """The batches of all runs of a seed."""
    return BatchStream(
        corpus,
        batch_size=settings.batch_size,
        seq_len=settings.seq_len,
        seed=seed,
        validation_batches=settings.curve_batches,
    )


def fit(
    model: nn.Module,
    optimizer: OptimizerFactory,
    seed: int,
    settings: TrainingSettings,
    corpus: ByteCorpus,
    folder: Path,
    *,
    save_every: int,
    methods: Sequence[Method] = (),
    logger: Logger | None = None,
) -> tuple[Trainer, Outcome]:
    """Trains from the folder's checkpoint, or from the start, to the end; `finish` writes the result."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    trainer = Trainer(
        model,
        stream(seed, settings, corpus),
        optimizer,
        schedule=settings.schedule(),
        methods=methods,
        clip_norm=settings.clip_norm,
        eval_every=-(-settings.steps // settings.evaluations),
        save_every=save_every,
        save_path=checkpoint,
        logger=[JsonlLogger(folder / METRICS), *([] if logger is None else [logger])],
        seed=seed,
        device=settings.device,
    )
    if checkpoint.exists() or checkpoint.with_name(f"{CHECKPOINT}.previous").exists():
        trainer.resume(checkpoint)
    final_loss, note = None, ""
    try:
        trainer.fit(settings.steps)
        final_loss = validation_loss(trainer.model, corpus, settings)
    except FloatingPointError as error:
        note = str(error)  # a result like another: this does not train
    return trainer, _outcome(folder / METRICS, final_loss, note)


def finish(folder: Path, result: Kept) -> Kept:
    """Writes the result of a run and removes its checkpoints."""
    write_json(folder / RESULT, result)
    for left in (folder / CHECKPOINT, folder / f"{CHECKPOINT}.previous"):
        if left.exists():
            shutil.rmtree(left)
    return result


@torch.no_grad()
def validation_loss(model: nn.Module, corpus: ByteCorpus, settings: TrainingSettings) -> float:
    """Mean cross-entropy, nats per byte, of final_windows windows spread evenly over the validation part."""
    rows = min(VALIDATION_ROWS, settings.final_windows)
    model.eval()
    batches = corpus.validation(settings.final_windows // rows, rows, settings.seq_len)
    return fmean(
        cross_entropy(model, {name: t.to(settings.device) for name, t in batch.items()}).item() for batch in batches
    )


def _outcome(metrics: Path, final_loss: float | None, note: str) -> Outcome:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    step_ms = [line["step_ms"] for line in lines]
    validated = [line for line in lines if "val_loss" in line]
    return Outcome(
        final_loss=final_loss,
        note=note,
        train_curve=_means([line["loss"] for line in lines]),
        val_curve=([line["step"] for line in validated], [line["val_loss"] for line in validated]),
        step_ms=median(step_ms) if step_ms else 0.0,
        seconds=sum(step_ms) / 1e3,
        machine=asdict(describe_machine()),
    )


def _means(values: list[float]) -> tuple[list[int], list[float]]:
    """(index of the last value, counted from 1, mean) of each of about CURVE_POINTS equal pieces."""
    width = max(1, -(-len(values) // CURVE_POINTS))
    pieces = [values[start : start + width] for start in range(0, len(values), width)]
    return list(accumulate(map(len, pieces))), [fmean(piece) for piece in pieces]


def read_result(run: TrainingRun, folder: Path, kind: type[Kept]) -> Kept | None:
    """The result of a `kind` that a run's folder holds; None if it is not finished. ValueError for that of another
    run."""
    path = folder / RESULT
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    found = type(run)(**content.pop("run"))
    if found != run:
        raise ValueError(f"runs: {path} is of the run {found}, not of {run}; give another folder")
    content |= {name: tuple(content[name]) for name in ("train_curve", "val_curve")}
    return kind(run=run, **content)
