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

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from narrowgauge.bench.optim_training_run import (
    BASELINE,
    PERTURBED,
    Run,
    RunResult,
    TrainingSettings,
    make_optimizer,
    read_result,
    train_run,
)
from narrowgauge.bench.report import write_json
from narrowgauge.bench.run_lock import exclusive
from narrowgauge.strict_json import plain
from narrowgauge.train import ByteCorpus, Logger

DEFAULT_STATES = ("coat", "log8")
DEFAULT_BETA2 = (0.95, 0.999)
SETTINGS = "settings.json"


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
    """Trains what `folder` does not hold yet, one run after the other; results of all runs that are finished.

    A run that another process has in hand is left to it, so fewer results than runs may come back. `logger` makes the
    logger of a run from its label; `finished` hears each result and how many runs are done. ValueError for unknown
    states, and for a folder that holds runs of other settings; all of that before the first step.
    """
    if save_every < 1:
        raise ValueError(f"save_every: expected at least 1, got {save_every}")
    for run in runs:
        make_optimizer(run, settings, [{"params": [nn.Parameter(torch.zeros(1))]}])
    corpus = ByteCorpus(settings.data)
    _claim(folder, settings, corpus)
    total = len(runs)

    def attempt(run: Run) -> bool:
        """Whether the run was trained here and now."""
        own = folder / run.name
        with exclusive(own / "run.lock") as held:
            if not held or read_result(run, own) is not None:
                return False
            label = f"[{len(results(runs, folder)) + 1}/{total}] {run}"
            result = train_run(
                run, settings, corpus, own, save_every=save_every, logger=logger(label) if logger else None
            )
        if finished is not None:
            finished(result, len(results(runs, folder)))
        return True

    with _threads(settings.threads):
        # From the head again after each: what a killed process left behind comes first.
        while any(attempt(run) for run in runs):
            pass
    return results(runs, folder)


def results(runs: Sequence[Run], folder: Path) -> list[RunResult]:
    """The results among `runs` that the folder holds, in their order."""
    found = (read_result(run, folder / run.name) for run in runs)
    return [result for result in found if result is not None]


def _claim(folder: Path, settings: TrainingSettings, corpus: ByteCorpus) -> None:
    """Writes the settings into a new folder; ValueError where another experiment's are."""
    path = folder / SETTINGS
    ours = {**plain(settings), "corpus": corpus.fingerprint}
    with exclusive(folder / "settings.lock", wait=True):
        if not path.exists():
            write_json(path, ours)
            return
        theirs = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        raise ValueError(f"runs: {folder} holds runs of other settings ({'; '.join(different)}); give another folder")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
