"""What SPES claims, at the size of a byte model: nearly the quality of averaging everything, for fewer bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from narrowgauge.methods.spes.exchange import traffic
from narrowgauge.methods.spes.merging import Merging
from narrowgauge.methods.spes.ownership import Ownership
from narrowgauge.train import Batch, BatchStream, ByteCorpus, Claim, Context, Experiment, Trainer, WarmupCosine
from narrowgauge.train.corpus import Corpus
from narrowgauge.train.moe import MoEConfig, MoELlama
from narrowgauge.train.moe_loss import RouterLoss
from narrowgauge.train.tradeoff import mean_loss

if TYPE_CHECKING:
    from narrowgauge.methods.spes.procedure import SPES

NODES, EVERY, STEPS = 4, 10, 160
ROWS, LENGTH, RATE = 4, 64, 1e-2
CONFIG = MoEConfig(dim=48, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=64, max_seq_len=LENGTH)


def shards(corpus: Corpus, count: int) -> list[Corpus]:
    """``count`` parts of the training text, of equal length; the held-out text is everybody's."""
    size = corpus.train.size // count
    return [
        Corpus(f"part {i} of {corpus.name}", corpus.train[i * size : (i + 1) * size], corpus.held_out)
        for i in range(count)
    ]


class Joined:
    """The batches of several streams as one: what a central run reads."""

    def __init__(self, streams: Sequence[BatchStream]) -> None:
        self.streams = streams

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batches = [next(stream) for stream in self.streams]
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def validation(self) -> list[Batch]:
        """That of the first stream, as they share it."""
        return self.streams[0].validation()

    def state_dict(self) -> dict[str, Any]:
        """Of all streams."""
        return {"streams": [stream.state_dict() for stream in self.streams]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of all streams."""
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            stream.load_state_dict(saved)


def _compare(spes: Callable[..., SPES], context: Context) -> dict[str, float]:
    corpus = ByteCorpus(max_bytes=1_000_000)
    parts = shards(corpus, NODES)
    steps = context.steps(STEPS)
    base = context.prepare(MoELlama(CONFIG, seed=context.seed))
    held_out = corpus.validation(context.count(8), 4 * ROWS, LENGTH)

    def streams() -> list[BatchStream]:
        size = {"batch_size": ROWS, "seq_len": LENGTH, "validation_batches": 1}
        return [BatchStream(part, seed=context.seed, **size) for part in parts]

    context.begin("central", 0.2)
    central = copy.deepcopy(base)
    context.fit(central, Joined(streams()), steps, lr=RATE, methods=[RouterLoss()])
    values = {"central": mean_loss(central, held_out)}
    every = context.steps(EVERY)
    arms = {
        "averaging everything": spes(nodes=NODES, every=every, exchange="all"),
        "spes": spes(nodes=NODES, every=every),
        "spes with merging": spes(
            nodes=NODES, every=every, merging=Merging(rate=0.05, until=steps // 2, every=2 * every)
        ),
        "no exchange": spes(nodes=NODES, every=every, exchange="none"),
    }
    for name, arm in arms.items():
        context.begin(name, 0.2)
        models = [copy.deepcopy(base) for _ in range(NODES)]
        schedule = WarmupCosine(RATE, steps, int(0.05 * steps), 0.1)
        trainers = []
        for node, (model, data) in enumerate(zip(models, streams(), strict=True)):
            loss = arm.prepare(model, node, steps)
            build = context.optimizer(RATE)
            trainers.append(Trainer(model, data, build, schedule=schedule, methods=[loss], seed=context.seed))
        arm.train(trainers, steps)
        values[name] = fmean(mean_loss(model, held_out) for model in models)
    ownership = Ownership.of(base, NODES)
    sent = {"spes": traffic(base, ownership), "averaging everything": traffic(base, ownership, all_experts=True)}
    return values | {f"MB a node and exchange, {name}": one.total / 1e6 for name, one in sent.items()}


def spes_experiment(spes: Callable[..., SPES]) -> Experiment:
    """See the module; ``spes`` makes the procedure of settings."""
    return Experiment(
        setting="A Llama 48 wide with 2 layers of 8 experts, 2 for each token, on 1 MB of the standard library, of"
        f" which each of {NODES} nodes has its own quarter; {STEPS} steps at the rate {RATE}, 4 rows of 64 bytes a"
        f" node, an exchange every {EVERY} steps. The central run has all 16 rows in one batch. Numbers are validation"
        " losses, of the nodes' mean where they never exchange.",
        claims=(
            Claim("validation loss against nodes that never exchange", "spes", "no exchange", margin=0.01),
            Claim(
                "validation loss, at most 0.03 above averaging everything", "spes", "averaging everything", margin=-0.03
            ),
            Claim("central training is better than SPES", "central", "spes"),
            Claim("central training is better than averaging everything", "central", "averaging everything"),
            Claim(
                "bytes of an exchange",
                "MB a node and exchange, spes",
                "MB a node and exchange, averaging everything",
            ),
            Claim("validation loss with merging of experts", "spes with merging", "spes", judged=False),
        ),
        run=partial(_compare, spes),
    )
