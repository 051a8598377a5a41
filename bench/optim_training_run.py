"""One training run of the suite `optim-training`, which can be killed at any time and goes on to the same bits.

Its folder holds `checkpoint/` and `metrics.jsonl` (a line a step) while it trains, and `result.json` once it is done.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.bench.machine import describe_machine
from narrowgauge.bench.report import write_json
from narrowgauge.optim import AdamW
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
from narrowgauge.train.method import ParameterGroup

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


@dataclass(frozen=True, order=True)
class Run:
    """Which run: what differs between two of them."""

    seed: int
    beta2: float
    state: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"seed{self.seed}-beta2_{self.beta2}-" + re.sub(r"[^\w.-]", "_", self.state)

    def __str__(self) -> str:
        return f"seed {self.seed}, β2 {self.beta2:g}, {self.state}"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run. Losses in nats per byte; final_loss None where it diverged, `note` says at which step.

    train_curve: (last step, mean training loss) of some hundred equal runs of steps; val_curve: (step, validation
    loss on the curve's batches). seconds: of the training steps; machine as `bench.Machine`.
    """

    run: Run
    final_loss: float | None
    note: str
    train_curve: tuple[list[int], list[float]]
    val_curve: tuple[list[int], list[float]]
    state_bytes_per_param: float
    step_ms: float
    seconds: float
    machine: Mapping[str, Any]


def make_optimizer(run: Run, settings: TrainingSettings, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    """The optimizer of a run; ValueError names the nearest codecs for an unknown state."""
    lr, betas, eps, decay = settings.lr, (settings.beta1, run.beta2), settings.eps, settings.weight_decay
    if run.state in (BASELINE, PERTURBED):
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=decay, fused=True)
    return AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=decay, state=run.state, seed=run.seed)


def make_model(run: Run, settings: TrainingSettings) -> Llama:
    """The initial model: a function of the seed, and for `fp32-perturbed` a hair beside it."""
    model = Llama(settings.sizes(), seed=run.seed)
    if run.state == PERTURBED:
        generator = torch.Generator().manual_seed(run.seed)
        with torch.no_grad():
            for p in model.parameters():
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                p.copy_(p.double() * (1 + settings.perturbation * noise))
    return model


def train_run(
    run: Run,
    settings: TrainingSettings,
    corpus: ByteCorpus,
    folder: Path,
    *,
    save_every: int,
    logger: Logger | None = None,
) -> RunResult:
    """Trains from the folder's checkpoint, or from the start, to the end, and writes the result."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    trainer = Trainer(
        make_model(run, settings),
        BatchStream(
            corpus,
            batch_size=settings.batch_size,
            seq_len=settings.seq_len,
            seed=run.seed,
            validation_batches=settings.curve_batches,
        ),
        lambda groups: make_optimizer(run, settings, groups),
        schedule=settings.schedule(),
        clip_norm=settings.clip_norm,
        eval_every=-(-settings.steps // settings.evaluations),
        save_every=save_every,
        save_path=checkpoint,
        logger=[JsonlLogger(folder / METRICS), *([] if logger is None else [logger])],
        seed=run.seed,
        device=settings.device,
    )
    if checkpoint.exists() or checkpoint.with_name(f"{CHECKPOINT}.previous").exists():
        trainer.resume(checkpoint)
    final_loss, note = None, ""
    try:
        trainer.fit(settings.steps)
        final_loss = validation_loss(trainer.model, corpus, settings)
    except FloatingPointError as error:
        note = str(error)  # a result like another: this state does not train
    result = _result(run, trainer, folder / METRICS, final_loss, note)
    write_json(folder / RESULT, result)
    for left in (checkpoint, checkpoint.with_name(f"{CHECKPOINT}.previous")):
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


def _result(run: Run, trainer: Trainer, metrics: Path, final_loss: float | None, note: str) -> RunResult:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    step_ms = [line["step_ms"] for line in lines]
    validated = [line for line in lines if "val_loss" in line]
    states = [t for state in trainer.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return RunResult(
        run=run,
        final_loss=final_loss,
        note=note,
        train_curve=_means([line["loss"] for line in lines]),
        val_curve=([line["step"] for line in validated], [line["val_loss"] for line in validated]),
        state_bytes_per_param=sum(t.nbytes for t in states) / sum(p.numel() for p in trainer.parameters),
        step_ms=median(step_ms) if step_ms else 0.0,
        seconds=sum(step_ms) / 1e3,
        machine=asdict(describe_machine()),
    )


def _means(values: list[float]) -> tuple[list[int], list[float]]:
    """(index of the last value, counted from 1, mean) of each of about CURVE_POINTS equal pieces."""
    width = max(1, -(-len(values) // CURVE_POINTS))
    pieces = [values[start : start + width] for start in range(0, len(values), width)]
    return list(accumulate(map(len, pieces))), [fmean(piece) for piece in pieces]


def read_result(run: Run, folder: Path) -> RunResult | None:
    """The result that a run's folder holds; None if it is not finished. ValueError for that of another run."""
    path = folder / RESULT
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    found = Run(**content.pop("run"))
    if found != run:
        raise ValueError(f"runs: {path} is of the run {found}, not of {run}; give another folder")
    content |= {name: tuple(content[name]) for name in ("train_curve", "val_curve")}
    return RunResult(run=run, **content)
