"""What the trainer costs: its step against the same loop written by hand.

    python -m narrowgauge.bench.loop_overhead [--steps N] [--pairs N]

Both loops train the same model on the same batches with the same AdamW, schedule, clipping and a loss that is read at
every step; after every pair their losses are the same to the bit, which shows that they did the same. They run in turn,
a few steps each, the one that begins changing from pair to pair; a pair's ratio is of the CPU time of the process,
which other processes on the machine disturb less than the time on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from narrowgauge.bench.machine import Machine, describe_machine
from narrowgauge.bench.report import write_result
from narrowgauge.strict_json import plain
from narrowgauge.train import BatchStream, ByteCorpus, History, Llama, LlamaConfig, Trainer, WarmupCosine

PRESET, BATCH_SIZE, SEQ_LEN = "demo", 8, 128
LR, BETAS, WEIGHT_DECAY, CLIP_NORM = 3e-3, (0.9, 0.95), 0.1, 1.0
CORPUS_BYTES = 1_000_000
AIM = 0.03

Steps = Callable[[int], float]
"""Trains so many steps more; the last loss."""


@dataclass(frozen=True)
class LoopOverhead:
    """Ratios of the trainer's CPU time to the hand-written loop's, one a pair; seconds of a step by hand (median)."""

    settings: dict[str, Any]
    ratios: tuple[float, ...]
    step_seconds: float
    machine: Machine = field(default_factory=describe_machine)

    @property
    def median(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the ratios."""
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**plain(self), "median": self.median, "quartiles": list(self.quartiles), "aim": 1 + AIM}


def _parts(corpus: ByteCorpus, preset: str, total: int) -> tuple[Llama, BatchStream, WarmupCosine]:
    model = Llama(LlamaConfig.preset(preset), seed=0)
    data = BatchStream(corpus, batch_size=BATCH_SIZE, seq_len=SEQ_LEN, validation_batches=1)
    return model, data, WarmupCosine(LR, total, total // 10)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    return [{"params": matrices}, {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]


def by_hand(corpus: ByteCorpus, preset: str, total: int) -> Steps:
    """The loop as one would write it."""
    model, data, schedule = _parts(corpus, preset, total)
    optimizer = torch.optim.AdamW(_groups(model), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    position = 0

    def steps(count: int) -> float:
        nonlocal position
        loss_value = 0.0
        for _ in range(count):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = schedule(position)
            batch = next(data)
            optimizer.zero_grad(set_to_none=True)
            logits = model(batch["input_ids"])
            loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            loss_value = loss.item()
            position += 1
        return loss_value

    return steps


def by_trainer(corpus: ByteCorpus, preset: str, total: int) -> Steps:
    """The same by a trainer, which keeps its metrics in memory."""
    model, data, schedule = _parts(corpus, preset, total)
    optimizer = torch.optim.AdamW(_groups(model), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    trainer = Trainer(model, data, optimizer, schedule=schedule, clip_norm=CLIP_NORM, logger=History())
    return lambda count: trainer.fit(trainer.step + count)["loss"]


def measure(
    *,
    pairs: int = 15,
    steps: int = 8,
    preset: str = PRESET,
    clock: Callable[[], float] = time.process_time,
    show: Callable[[int, float], None] = lambda pair, ratio: None,
) -> LoopOverhead:
    """Ratios of ``pairs`` pairs of ``steps`` steps each, after one pair that warms up; ``show`` is told of each.

    Raises ``ValueError`` for fewer than 2 pairs or 1 step, and ``ArithmeticError`` when the two loops differ.
    """
    if pairs < 2 or steps < 1:
        raise ValueError(f"pairs, steps: expected at least 2 and 1, got {pairs} and {steps}")
    corpus, total = ByteCorpus(max_bytes=CORPUS_BYTES), steps * (pairs + 1)
    loops = {"hand": by_hand(corpus, preset, total), "trainer": by_trainer(corpus, preset, total)}
    ratios, seconds = [], []
    for pair in range(pairs + 1):
        took, losses = {}, {}
        for name in sorted(loops, reverse=pair % 2 == 1):
            start = clock()
            losses[name] = loops[name](steps)
            took[name] = clock() - start
        if losses["hand"] != losses["trainer"]:
            raise ArithmeticError(f"the loops differ after {steps * (pair + 1)} steps: {losses}")
        if pair:
            ratios.append(took["trainer"] / took["hand"])
            seconds.append(took["hand"] / steps)
            show(pair, ratios[-1])
    settings = {"preset": preset, "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "steps": steps, "pairs": pairs}
    settings["threads"] = torch.get_num_threads()
    return LoopOverhead(settings, tuple(ratios), statistics.median(seconds))


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 where the trainer costs more than it should."""
    parser = argparse.ArgumentParser(prog="python -m narrowgauge.bench.loop_overhead", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--pairs", type=int, default=15, metavar="N", help="pairs to measure (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="steps of a loop in a pair (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    def show(pair: int, ratio: float) -> None:
        print(f"pair {pair} of {args.pairs}: {100 * (ratio - 1):+.2f} %", file=sys.stderr, flush=True)

    try:
        result = measure(pairs=args.pairs, steps=args.steps, show=show)
    except ValueError as error:
        parser.error(str(error))
    low, high = (100 * (value - 1) for value in result.quartiles)
    print(f"a step by hand takes {1e3 * result.step_seconds:.1f} ms of CPU; the trainer adds"
          f" {100 * (result.median - 1):+.2f} % (median of {args.pairs} pairs, quartiles {low:+.2f} … {high:+.2f} %);"
          f" the aim is at most {100 * AIM:.0f} %")  # fmt: skip
    if args.out is not None:
        print(f"written: {write_result(result, args.out)}", file=sys.stderr)
    return int(result.median > 1 + AIM)


if __name__ == "__main__":
    sys.exit(main())
