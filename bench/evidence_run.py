"""Runs the experiments of published methods, a seed in a process of its own, and tells how far they are.

Each seed runs on one thread wherever it runs, so that the numbers do not depend on how many cores there are.
"""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import narrowgauge.methods  # noqa: F401 - importing it fills the register
from narrowgauge.train import Context, get_published

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Trial:
    """One seed of a method's experiment under a recipe and a code of AdamW's moments (None: float32)."""

    method: str
    seed: int
    recipe: str | None = None
    state: str | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """The numbers of a trial and the seconds it took."""

    trial: Trial
    values: dict[str, float]
    seconds: float


Tell = Callable[[Trial, float, str], None]
"""tell(trial, share of it that is done, what is at work)."""


def run_trial(trial: Trial, tell: Tell) -> Outcome:
    """Runs it here, on one thread."""
    experiment = get_published(trial.method).experiment()
    context = Context(
        trial.seed,
        recipe=trial.recipe,
        state=trial.state,
        scale=trial.scale,
        tell=lambda share, what: tell(trial, share, what),
    )
    start = time.perf_counter()
    with _one_thread():
        values = experiment.run(context)
    return Outcome(trial, {name: float(value) for name, value in values.items()}, time.perf_counter() - start)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_trials(trials: Sequence[Trial], *, jobs: int, tell: Tell) -> Iterator[Outcome]:
    """The outcomes, in the order in which they are finished; at most ``jobs`` at a time.

    What a trial raises is raised here, and no further one begins. Raises ``ValueError`` for ``jobs`` below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    if jobs == 1 or len(trials) < 2:
        for trial in trials:
            yield run_trial(trial, tell)
        return
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(min(jobs, len(trials)), mp_context=spawn) as pool:
        news: Any = manager.Queue()
        pending: set[Future[Outcome]] = {pool.submit(_in_process, trial, news) for trial in trials}
        try:
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                _pass_on(news, tell)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_process(trial: Trial, news: Any) -> Outcome:
    return run_trial(trial, lambda trial, share, what: news.put((trial, share, what)))


def _pass_on(news: Any, tell: Tell) -> None:
    while True:
        try:
            tell(*news.get_nowait())
        except queue.Empty:
            return
