"""The V-cycle against training the large model alone, at equal floating-point operations."""

import torch
from torch import nn

from narrowgauge.methods.multilevel.cycle import VCycle, Visit
from narrowgauge.methods.multilevel.flops import training_flops
from narrowgauge.methods.multilevel.llama import coalesced_config, decoalesce
from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    Claim,
    Context,
    Experiment,
    Llama,
    LlamaConfig,
    Trainer,
    WarmupCosine,
    cross_entropy,
    tiny_llama,
)

SEQ_LEN = 64
SCRATCH, DOWN, BOTTOM, EARLY = 320, 32, 160, 80
"""Steps of the large model alone, of the cycle's first two visits, and at which training alone is looked at early."""
PEAK, SMALL_PEAK = 3e-3, 6e-3
RATIOS = (0.5, 0.25)
WATCHED = 12
"""How often the loss is looked at while the cycle's last visit trains."""


def rest(config: LlamaConfig, total: int, down: int, bottom: int) -> int:
    """Steps that are left for the large model, of the operations of ``total`` steps."""
    small = training_flops(coalesced_config(config), SEQ_LEN) / training_flops(config, SEQ_LEN)
    return round(total - down - bottom * small)


def _compare(context: Context) -> dict[str, float]:
    corpus = ByteCorpus(max_bytes=1_000_000)
    context.begin("the large model alone", 0.36)
    model, data = _start(context, corpus)
    trainer = _fit(context, model, data, context.steps(EARLY), _first_rate(context))
    values = {"scratch early": trainer.evaluate()["val_loss"]}
    trainer.fit(context.steps(SCRATCH))
    values["scratch"] = trainer.evaluate()["val_loss"]
    for ratio in RATIOS:
        context.begin(f"V-cycle, ratio {ratio:g}", 0.32)
        values |= _cycle(context, corpus, ratio, values["scratch"])
    return values


def _cycle(context: Context, corpus: ByteCorpus, ratio: float, scratch: float) -> dict[str, float]:
    total, down, bottom = (context.steps(steps) for steps in (SCRATCH, DOWN, BOTTOM))
    model, data = _start(context, corpus)
    up = max(2, rest(model.config, total, down, bottom))
    values: dict[str, float] = {}

    def train(visited: Llama, visit: Visit) -> None:
        if visit.part == "down":
            _fit(context, visited, data, visit.steps, _first_rate(context))
        elif visit.part == "bottom":
            _fit(context, visited, data, visit.steps, WarmupCosine(SMALL_PEAK, visit.steps))
            values["de-coalesced"] = _loss(context.prepare(decoalesce(visited, model.config)), data)
        else:
            values[f"interpolated, ratio {ratio:g}"] = _loss(visited, data)
            trainer = _fit(context, visited, data, 1, WarmupCosine(PEAK, visit.steps))
            saved = 0.0
            looks = context.count(WATCHED)
            for look in range(1, looks + 1):
                trainer.fit(max(1, visit.steps * look // looks))
                loss = trainer.evaluate()["val_loss"]
                if loss <= scratch and not saved:
                    saved = (visit.steps - trainer.step) / total
            values[f"V-cycle, ratio {ratio:g}"] = loss
            values[f"share saved, ratio {ratio:g}"] = saved

    VCycle(down=(down,), bottom=bottom, up=(up,), ratio=ratio).run(model, train)
    return values


def _first_rate(context: Context) -> WarmupCosine:
    """Of the large model alone; the cycle's first visit is its beginning."""
    total = context.steps(SCRATCH)
    return WarmupCosine(PEAK, total, total // 20)


def _fit(context: Context, model: nn.Module, data: BatchStream, steps: int, rate: WarmupCosine) -> Trainer:
    return context.fit(context.prepare(model), data, steps, lr=rate.peak, schedule=rate)


def _start(context: Context, corpus: ByteCorpus) -> tuple[Llama, BatchStream]:
    """The large model and the batches, the same for every arm; the cycle's visits go through them one after another."""
    model = tiny_llama(context.seed, num_layers=4)
    batches = context.count(16)
    return model, BatchStream(corpus, batch_size=12, seq_len=SEQ_LEN, seed=context.seed, validation_batches=batches)


@torch.no_grad()
def _loss(model: nn.Module, data: BatchStream) -> float:
    losses = [cross_entropy(model, batch).item() for batch in data.validation()]
    return sum(losses) / len(losses)


EXPERIMENT = Experiment(
    setting="A Llama 64 wide with 4 layers on 1 MB of the standard library, 320 steps of 12 x 64 bytes; the V-cycle has"
    " 32 large steps, 160 of a model half as wide and deep, and as many large ones as the same number of floating-point"
    " operations leaves. Interpolation ratio 0.5, and 0.25 besides.",
    claims=(
        Claim("validation loss at equal operations, ratio 0.5", "V-cycle, ratio 0.5", "scratch", margin=-0.005),
        Claim("validation loss of the de-coalesced model, against more operations", "de-coalesced", "scratch early"),
        Claim("share of operations saved to equal loss", "share saved, ratio 0.5", 0.0, better="higher", judged=False),
        Claim("validation loss at equal operations, ratio 0.25", "V-cycle, ratio 0.25", "scratch", judged=False),
    ),
    run=_compare,
    seeds=5,
)
