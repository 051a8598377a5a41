"""One run unbroken, and the same run stopped in the middle and resumed with more or less of its state."""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from narrowgauge.methods.from_scratch.restart import Rewarmed, restart
from narrowgauge.train import (
    ByteCorpus,
    Claim,
    Context,
    Experiment,
    History,
    Schedule,
    Trainer,
    WarmupCosine,
    tiny_llama,
)
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.windows import WindowStream, choose_windows, cut_windows

SEQ_LEN, BATCH_SIZE, PEAK, STEPS = 64, 16, 6e-3, 300
EARLY, LATE, REWARM = 20, 50, 30

SETTING = (
    "A Llama 64 wide with 2 layers on one epoch of 4,800 windows of 65 bytes of the standard library, 300 steps of"
    " AdamW at 0.006 with warm-up and cosine. The control runs through; the others are stopped at step 150 and go on"
    " from the checkpoint with everything, without the optimizer's state, without it but warmed up again over 30 steps,"
    " and without the position in the data. Losses are those of the same batches, as differences from the control's."
)


@dataclass(frozen=True, slots=True)
class _Run:
    context: Context
    windows: list[bytes]
    steps: int

    @property
    def half(self) -> int:
        return self.steps // 2

    def schedule(self) -> Schedule:
        return WarmupCosine(PEAK, self.steps, self.steps // 20)

    def stream(self) -> WindowStream:
        return WindowStream(
            self.windows, self.windows[:BATCH_SIZE], batch_size=BATCH_SIZE, seq_len=SEQ_LEN, seed=self.context.seed
        )

    def trainer(self, schedule: Schedule) -> tuple[Trainer, History]:
        history, seed = History(), self.context.seed
        model = self.context.prepare(tiny_llama(seed))
        optimizer = self.context.optimizer(PEAK)
        return Trainer(model, self.stream(), optimizer, schedule=schedule, logger=history, seed=seed), history

    def resumed(
        self, path: Path, schedule: Schedule | None = None, without: Collection[str] = ()
    ) -> tuple[Trainer, list[float]]:
        """The run that goes on, and its losses after the checkpoint."""
        trainer, history = self.trainer(schedule or self.schedule())
        restart(trainer, path, without=without)
        trainer.fit(self.steps)
        return trainer, history["loss"]


def compare(context: Context) -> dict[str, float]:
    """All arms of one seed."""
    steps = max(4, context.steps(STEPS))
    windows = cut_windows(ByteCorpus(max_bytes=2_000_000).train, SEQ_LEN)
    run = _Run(context, choose_windows(windows, steps * BATCH_SIZE, derive_seed(context.seed, "text")), steps)
    with tempfile.TemporaryDirectory() as folder:
        return _arms(run, Path(folder) / "half")


def _arms(run: _Run, path: Path) -> dict[str, float]:
    begin = run.context.begin
    begin("unbroken", 1 / 3)
    unbroken, history = run.trainer(run.schedule())
    unbroken.fit(run.half)
    unbroken.save(path)
    unbroken.fit(run.steps)
    expected = history["loss"][run.half :]

    def difference(losses: list[float]) -> list[float]:
        return [ours - theirs for ours, theirs in zip(losses, expected, strict=True)]

    begin("everything restored", 1 / 6)
    full, losses = run.resumed(path)
    values = {
        "everything: loss": max(map(abs, difference(losses))),
        "everything: weights": float(_num_different(full, unbroken)),
        "everything: windows twice": _num_repeated(run, full),
    }
    arms: dict[str, Schedule] = {
        "without optimizer": run.schedule(),
        "warmed up again": Rewarmed(run.schedule(), run.half, min(REWARM, run.half)),
    }
    for label, schedule in arms.items():
        begin(label, 1 / 6)
        _, losses = run.resumed(path, schedule, without=("optimizer",))
        apart = difference(losses)
        values |= {
            f"{label}: first loss": abs(apart[0]),
            f"{label}: second loss": apart[1],
            f"{label}: spike": max(apart[:EARLY]),
            f"{label}: mean of the first 20": sum(apart[:EARLY]) / len(apart[:EARLY]),
            f"{label}: mean of the last 50": sum(apart[-LATE:]) / len(apart[-LATE:]),
        }
    begin("without position", 1 / 6)
    trainer, losses = run.resumed(path, without=("data",))
    stretched = WarmupCosine(PEAK, run.steps + run.half, run.steps // 20)
    return values | {
        "without position: windows twice": _num_repeated(run, trainer),
        "without position: mean loss difference": sum(difference(losses)) / len(losses),
        "stretched horizon: rate at the boundary": stretched(run.half) / run.schedule()(run.half),
    }


def _num_repeated(run: _Run, finished: Trainer) -> float:
    """How many windows of the first half the resumed second half has read again."""
    stream, end = run.stream(), finished.data.state_dict()["position"]
    first = {index for step in range(run.half) for index in stream.indices(step)}
    second = (index for step in range(end - run.steps + run.half, end) for index in stream.indices(step))
    return float(sum(index in first for index in second))


def _num_different(a: Trainer, b: Trainer) -> int:
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return sum(int(torch.count_nonzero(one != other)) for one, other in pairs)


def build() -> Experiment:
    """The experiment with its claims."""
    # "Not more than 0": a margin far below what one differing bit would make.
    exactly = -1e-12
    return Experiment(
        setting=SETTING,
        claims=(
            Claim("with everything, the losses are the same", "everything: loss", 0.0, margin=exactly),
            Claim("with everything, the weights are the same", "everything: weights", 0.0, margin=exactly),
            Claim("with everything, no window is read twice", "everything: windows twice", 0.0, margin=exactly),
            Claim("without the optimizer, the first loss is still the same", "without optimizer: first loss", 0.0,
                  margin=exactly),
            Claim("without the optimizer, the second loss is higher", "without optimizer: second loss", 0.0,
                  better="higher"),
            Claim("without the optimizer, the loss jumps", "without optimizer: spike", 0.0, better="higher",
                  margin=0.02),
            Claim("warming up again makes the jump smaller", "warmed up again: spike", "without optimizer: spike"),
            Claim("without the position, windows are read twice", "without position: windows twice", 0.0,
                  better="higher"),
            Claim("a horizon that grows by the steps done makes the rate jump",
                  "stretched horizon: rate at the boundary", 1.0, better="higher", margin=0.1),
        ),
        run=compare,
        seeds=5,
    )  # fmt: skip
