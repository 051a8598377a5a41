"""What compressed optimizer states do to training: the same run with each state, seed by seed.

A run is (seed, β₂, state): a byte-level Llama trained with AdamW. Runs of one seed have the same initial weights, the
same batches and the same schedule (linear warm-up, then a cosine), so that they differ in how the moments are stored
alone. The baseline `fp32` is torch.optim.AdamW(fused=True); every other state is narrowgauge.optim.AdamW(state=…).

Training is chaotic: two runs that differ by one rounding end at different losses, however good the rounding is. How far
apart is measured by `fp32-perturbed`, the baseline from initial weights p · (1 + perturbation · n), n ~ N(0, 1): a gap
of that size says nothing about a state.

The final loss is that of a fixed validation set, the same for all runs. Each run has a folder of its own: a command
that was killed goes on where it was, to the same bits, and several processes may share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from narrowgauge.bench.optim_training_run import Run, RunResult, make_optimizer, train_run
from narrowgauge.bench.training_run import BASELINE, PERTURBED, TrainingSettings
from narrowgauge.bench.training_runs import train_all
from narrowgauge.train import Logger

DEFAULT_STATES = ("coat", "log8")
DEFAULT_BETA2 = (0.95, 0.999)


def plan(states: Sequence[str], beta2: Sequence[float], seeds: int, *, noise_floor: bool = False) -> list[Run]:
    """All runs, in an order in which whole comparisons are there early: by seed, then β₂, the baseline first.

    ValueError for no seeds, no β₂, and a state that would be compared with itself.
    """
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    if not beta2:
        raise ValueError("beta2: expected at least one value")
    if PERTURBED in states:
        raise ValueError(f"state: {PERTURBED} is not a codec; ask for it by noise_floor")
    columns = dict.fromkeys((BASELINE, *states, *([PERTURBED] if noise_floor else [])))
    if len(columns) < 2:
        raise ValueError(f"state: expected another one than {BASELINE}, with which it is compared")
    return [Run(seed, b, state) for seed in range(seeds) for b in dict.fromkeys(beta2) for state in columns]


def run_all(
    runs: Sequence[Run],
    settings: TrainingSettings,
    folder: Path,
    *,
    save_every: int = 200,
    logger: Callable[[str], Logger] | None = None,
    finished: Callable[[RunResult, int], None] | None = None,
) -> list[RunResult]:
    """Trains what `folder` does not hold yet, as `train_all` does; ValueError for unknown states before anything is
    written."""
    for run in runs:
        make_optimizer(run, settings, [{"params": [nn.Parameter(torch.zeros(1))]}])
    return train_all(
        runs, settings, folder, train_run, RunResult, save_every=save_every, logger=logger, finished=finished
    )
