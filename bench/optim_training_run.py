"""One training run of the suite `optim-training`: AdamW with its moments stored in one way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from narrowgauge.bench.training_run import (
    BASELINE,
    PERTURBED,
    Trained,
    TrainingSettings,
    finish,
    fit,
    initial_model,
)
from narrowgauge.optim import AdamW
from narrowgauge.train import ByteCorpus, Llama, Logger
from narrowgauge.train.method import ParameterGroup


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
class RunResult(Trained):
    """A finished run."""

    run: Run
    state_bytes_per_param: float


def make_optimizer(run: Run, settings: TrainingSettings, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    """The optimizer of a run; ValueError names the nearest codecs for an unknown state."""
    lr, betas, eps, decay = settings.lr, (settings.beta1, run.beta2), settings.eps, settings.weight_decay
    if run.state in (BASELINE, PERTURBED):
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=decay, fused=True)
    return AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=decay, state=run.state, seed=run.seed)


def make_model(run: Run, settings: TrainingSettings) -> Llama:
    """The initial model: a function of the seed, and for `fp32-perturbed` a hair beside it."""
    return initial_model(run.seed, settings, settings.perturbation if run.state == PERTURBED else 0.0)


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
    trainer, outcome = fit(
        make_model(run, settings),
        lambda groups: make_optimizer(run, settings, groups),
        run.seed,
        settings,
        corpus,
        folder,
        save_every=save_every,
        logger=logger,
    )
    states = [t for state in trainer.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    per_param = sum(t.nbytes for t in states) / sum(p.numel() for p in trainer.parameters)
    return finish(folder, RunResult(**vars(outcome), run=run, state_bytes_per_param=per_param))
