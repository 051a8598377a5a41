"""What is trained, and when it counts as done."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.train import BatchSource, BatchStream, ByteCorpus, Method, cross_entropy, tiny_llama
from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import eval_mode
from narrowgauge.train.loss import num_labelled
from narrowgauge.train.tasks import TaskSource, TensorSource, copying, ill_conditioned_regression, parity
from narrowgauge.train.tokens import VOCAB_SIZE


class MeanSquaredError(Method):
    """The loss of a regression: the mean of (model's value - label)²; labels [B, 1] float."""

    name = "mean_squared_error"

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Of one batch."""
        return F.mse_loss(model(batch["input_ids"]), batch["labels"]), {}


@dataclass(frozen=True, slots=True)
class Workload:
    """``model(seed)`` is trained on ``data(seed)`` for at most ``steps`` steps.

    Every ``eval_every`` of them ``metric`` (mean over a validation batch; batches count by their labels) is compared
    with ``target``, which is reached from above (``better="lower"``) or below. ``methods()`` are the workload's own,
    such as its loss.
    """

    name: str
    model: Callable[[int], nn.Module]
    data: Callable[[int], BatchSource]
    metric: Callable[[nn.Module, Batch], Tensor]
    target: float
    steps: int
    eval_every: int
    better: Literal["lower", "higher"] = "lower"
    methods: Callable[[], tuple[Method, ...]] = tuple

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eval_every < 1:
            raise ValueError(f"steps, eval_every: expected at least 1, got {self.steps} and {self.eval_every}")
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better: expected 'lower' or 'higher', got {self.better!r}")

    def shortened(self, steps: int) -> "Workload":
        """The same with so many steps at most."""
        return replace(self, steps=steps, eval_every=min(self.eval_every, steps))

    def is_reached(self, value: float) -> bool:
        """Whether a value of the metric is at the target or beyond; NaN never is."""
        return value <= self.target if self.better == "lower" else value >= self.target

    @torch.no_grad()
    def measure(self, model: nn.Module, batches: list[Batch]) -> float:
        """The metric over the validation batches, in eval mode."""
        counts = [num_labelled(batch) for batch in batches]
        with eval_mode(model):
            values = [self.metric(model, batch).item() for batch in batches]
        return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)


def _squared_error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["input_ids"]), batch["labels"])


def _error_rate(model: nn.Module, batch: Batch) -> Tensor:
    labels = batch["labels"]
    wrong = (model(batch["input_ids"]).argmax(-1) != labels) & (labels != -100)
    return wrong.sum() / (labels != -100).sum()


def _seeded(build: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """torch's own initial weights, from a seed, without touching the global generator."""

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build()

    return make


# `find_target` with the four baselines, 4 points each, and the seeds 100, 101, 102 gave 2.539, 0, 0.0100 and 0.00127.
# Those are for the 20 points of the paper's studies; with a few points hardly anybody gets there: these are looser.


def byte_text() -> Workload:
    """Next byte of the standard library; a Llama 32 wide with 1 layer. Metric: nats per byte."""
    sizes = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 96, "max_seq_len": 32}
    corpus = ByteCorpus(max_bytes=400_000)
    return Workload(
        name="text",
        model=lambda seed: tiny_llama(seed, **sizes),
        data=lambda seed: BatchStream(corpus, batch_size=8, seq_len=32, seed=seed, validation_batches=6),
        metric=cross_entropy,
        target=2.6,
        steps=400,
        eval_every=10,
    )


def parity_of_bits() -> Workload:
    """Parity of 3 of 12 bits; a perceptron with one hidden layer. Metric: error rate."""
    examples = parity(3000, seed=0)
    train, validation = examples.split(512)
    layers = _seeded(lambda: nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2), nn.Unflatten(1, (1, 2))))
    return Workload(
        name="parity",
        model=layers,
        data=lambda seed: TensorSource(train, validation, batch_size=64, seed=seed),
        metric=_error_rate,
        target=0.02,
        steps=400,
        eval_every=10,
    )


def copied_letters() -> Workload:
    """Six letters of eight, then the same again; a Llama 32 wide with 2 layers. Metric: error rate of the letters."""
    sizes = {"dim": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 16}
    train, validation = copying(2000, 128, seed=0, length=6, alphabet="abcdefgh")
    return Workload(
        name="copying",
        model=lambda seed: tiny_llama(seed, vocab_size=VOCAB_SIZE, **sizes),
        data=lambda seed: TaskSource(train, validation, batch_size=16, seq_len=13, seed=seed),
        metric=_error_rate,
        target=0.1,
        steps=240,
        eval_every=10,
    )


def regression() -> Workload:
    """Linear regression with a Hessian of condition 1e3. Metric: mean squared error."""
    train, validation = ill_conditioned_regression(2000, seed=0, condition=1e3).split(400)
    return Workload(
        name="regression",
        model=_seeded(lambda: nn.Linear(16, 1)),
        data=lambda seed: TensorSource(train, validation, batch_size=64, seed=seed),
        metric=_squared_error,
        target=0.05,
        steps=400,
        eval_every=10,
        methods=lambda: (MeanSquaredError(),),
    )


def all_workloads() -> list[Workload]:
    """The four of this benchmark."""
    return [byte_text(), parity_of_bits(), copied_letters(), regression()]
