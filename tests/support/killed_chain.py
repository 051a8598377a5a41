"""A run that is killed again and again with SIGKILL, for tests/train/test_resume_killed.py.

    python killed_chain.py FOLDER KILLS STEPS SEED

A child trains and tells the parent each step; the parent kills it at a random moment after a random step. The next
child goes on from the newest whole checkpoint, until one is left to finish. Writes FOLDER/results.json: where each
child began and was killed, and what differs from the run that was not killed.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from averaged_weights import Averaged
from narrowgauge.optim import AdamW
from narrowgauge.train import BatchStream, ByteCorpus, JsonlLogger, Llama, LlamaConfig, Trainer, WarmupCosine
from narrowgauge.train.early_stopping import EarlyStopping
from narrowgauge.train.find_checkpoint import find_checkpoint
from narrowgauge.train.loggers import CsvLogger
from narrowgauge.train.tree import flatten

LONGEST_WAIT = 0.03
"""Seconds between a step's end and the kill: about a step and its checkpoint."""
TIMES = {"tokens_per_s", "step_ms", "memory_bytes"}
SMALL = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


class Tell:
    """A logger that writes a byte into a pipe at every step."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def start(self, first: int, last: int) -> None:
        """Nothing to tell."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        os.write(self.pipe, bytes([step]))

    def stop(self) -> None:
        """Nothing to close."""


def make_trainer(corpus: ByteCorpus, folder: Path, steps: int, *loggers: Any) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        Llama(SMALL, seed=0),
        BatchStream(corpus, batch_size=2, seq_len=16, validation_batches=1),
        lambda groups: AdamW(groups, lr=1e-2, seed=9, state="log8"),
        schedule=WarmupCosine(1e-2, steps, 2),
        methods=[Averaged()],
        grad_accumulation=2,
        eval_every=3,
        early_stopping=EarlyStopping(patience=steps),
        save_every=2,
        save_path=folder / "last",
        logger=[JsonlLogger(folder / "log.jsonl"), CsvLogger(folder / "log.csv"), *loggers],
    )


def train(corpus: ByteCorpus, folder: Path, steps: int, *loggers: Any) -> int:
    """The step at which the run went on; it is finished then."""
    trainer = make_trainer(corpus, folder, steps, *loggers)
    if (found := find_checkpoint(folder / "last")) is not None:
        trainer.resume(found.path)
    first = trainer.step
    trainer.fit(steps)
    return first


def killed_child(corpus: ByteCorpus, folder: Path, steps: int, target: int, wait: float) -> int:
    """The last step that the child told of; AssertionError unless it died of SIGKILL."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        train(corpus, folder, steps, Tell(writing))
        os._exit(1)
    os.close(writing)
    step = 0
    while step < target and (told := os.read(reading, 1)):
        step = told[0]
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    assert os.WIFSIGNALED(status), f"ended with status {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return step


def content(folder: Path, steps: int) -> dict[str, Any]:
    """All numbers of a finished run."""
    found = find_checkpoint(folder / "last", "newest")
    assert found is not None
    trainer = make_trainer(ByteCorpus(max_bytes=100_000), folder / "other", steps)
    trainer.resume(found.path)
    assert trainer.early_stopping is not None
    state = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "methods": trainer.methods.state_dict(),
    }
    node, tensors = flatten(state)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "step": trainer.step,
        "plain": json.dumps(node),
        "tensors": {name: (str(t.dtype), t.reshape(-1).tolist()) for name, t in tensors.items()},
        "stopping": trainer.early_stopping.state_dict(),
        "data": trainer.data.state_dict(),
        "jsonl": [{name: value for name, value in line.items() if name not in TIMES} for line in lines],
        "csv": [{name: value for name, value in row.items() if name not in TIMES} for row in rows],
    }


def main(folder: Path, kills: int, steps: int, seed: int) -> None:
    torch.set_num_threads(1)
    corpus, rng = ByteCorpus(max_bytes=100_000), random.Random(seed)
    unbroken, broken = folder / "unbroken", folder / "broken"
    train(corpus, unbroken, steps)
    targets = sorted(rng.sample(range(2, steps - 2), kills))
    killed = [killed_child(corpus, broken, steps, target, rng.uniform(0, LONGEST_WAIT)) for target in targets]
    last = train(corpus, broken, steps)
    straight, resumed = content(unbroken, steps), content(broken, steps)
    different = [name for name, value in straight.items() if value != resumed[name]]
    (folder / "results.json").write_text(json.dumps({"killed": killed, "last": last, "different": different}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
