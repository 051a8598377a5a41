"""All runs of a suite that trains: one folder for each, shared between processes, taken up where one was killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from narrowgauge.bench.report import write_json
from narrowgauge.bench.run_lock import exclusive
from narrowgauge.bench.training_run import Trained, TrainingRun, TrainingSettings, read_result
from narrowgauge.strict_json import plain
from narrowgauge.train import ByteCorpus, Logger

SETTINGS = "settings.json"

AnyRun = TypeVar("AnyRun", bound=TrainingRun)
RunIn = TypeVar("RunIn", bound=TrainingRun, contravariant=True)
Result = TypeVar("Result", bound=Trained)
Settings = TypeVar("Settings", bound=TrainingSettings)
SettingsIn = TypeVar("SettingsIn", bound=TrainingSettings, contravariant=True)
ResultOut = TypeVar("ResultOut", bound=Trained, covariant=True)


class TrainRun(Protocol, Generic[RunIn, SettingsIn, ResultOut]):
    """Trains a run in its folder, writes and returns the result."""

    def __call__(
        self,
        run: RunIn,
        settings: SettingsIn,
        corpus: ByteCorpus,
        folder: Path,
        *,
        save_every: int,
        logger: Logger | None = None,
    ) -> ResultOut: ...


def train_all(
    runs: Sequence[AnyRun],
    settings: Settings,
    folder: Path,
    train: TrainRun[AnyRun, Settings, Result],
    kind: type[Result],
    *,
    save_every: int = 200,
    logger: Callable[[str], Logger] | None = None,
    finished: Callable[[Result, int], None] | None = None,
    failed: Callable[[AnyRun, Exception], None] | None = None,
) -> list[Result]:
    """Trains what `folder` does not hold yet, one run after the other; results of all runs that are finished.

    A run that another process has in hand is left to it, so fewer results than runs may come back. `logger` makes the
    logger of a run from its label; `finished` hears each result and how many runs are done; `failed`, if given, hears
    of a run that raised, and the others go on. ValueError for a folder that holds runs of other settings, before the
    first step.
    """
    if save_every < 1:
        raise ValueError(f"save_every: expected at least 1, got {save_every}")
    corpus = ByteCorpus(settings.data)
    _claim(folder, settings, corpus)
    total = len(runs)
    given_up: set[str] = set()

    def attempt(run: AnyRun) -> bool:
        """Whether the run was tried here and now."""
        own = folder / run.name
        with exclusive(own / "run.lock") as held:
            if not held or run.name in given_up or read_result(run, own, kind) is not None:
                return False
            label = f"[{len(finished_runs(runs, folder, kind)) + 1}/{total}] {run}"
            try:
                result = train(
                    run, settings, corpus, own, save_every=save_every, logger=logger(label) if logger else None
                )
            except Exception as error:
                if failed is None:
                    raise
                given_up.add(run.name)
                failed(run, error)
                return True
        if finished is not None:
            finished(result, len(finished_runs(runs, folder, kind)))
        return True

    with _threads(settings.threads):
        # From the head again after each: what a killed process left behind comes first.
        while any(attempt(run) for run in runs):
            pass
    return finished_runs(runs, folder, kind)


def finished_runs(runs: Sequence[AnyRun], folder: Path, kind: type[Result]) -> list[Result]:
    """The results among `runs` that the folder holds, in their order."""
    found = (read_result(run, folder / run.name, kind) for run in runs)
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
