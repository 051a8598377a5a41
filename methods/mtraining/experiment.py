"""How even the layouts are, and what sparse attention keeps: of a trained model's accuracy and attention mass when it
is switched in, and of learning when it is there from the start."""

from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from narrowgauge.methods.mtraining.attention import SparseAttention, attention_layers
from narrowgauge.methods.mtraining.balance import Layout, ring_work, step_imbalance, tile_owners
from narrowgauge.methods.mtraining.controls import (
    FixedAttention,
    Listening,
    causal_weights,
    random_entries,
    sparse_entries,
    window_entries,
)
from narrowgauge.methods.mtraining.index import Selection, SparseIndex
from narrowgauge.methods.mtraining.mask import tile_work
from narrowgauge.train import BatchSource, BatchStream, ByteCorpus, Claim, Context, Experiment, Llama, tiny_llama
from narrowgauge.train.blocks import Attend, causal_attention
from narrowgauge.train.tasks import TaskSource
from narrowgauge.train.tasks.copying import copying
from narrowgauge.train.tokens import VOCAB_SIZE

SELECTION, BLOCK = Selection(mass=0.9, probes=16, sinks=1, window=4), 4
LETTERS, TEXT_LEN, BATCH_SIZE = 48, 96, 16
POSITIONS, TILE, DIAGONALS, COLUMNS, DRAWS = 16384, 64, 8, 16, 20


def _run(context: Context) -> dict[str, float]:
    split = copying(context.count(8000, 64), context.count(64, 16), seed=context.seed, length=LETTERS)
    text = ByteCorpus(max_bytes=1_000_000)

    def copies() -> TaskSource:
        return TaskSource(split.train, split.validation, batch_size=BATCH_SIZE, seq_len=2 * LETTERS, seed=context.seed)

    def bytes_() -> BatchStream:
        batches = context.count(16)
        return BatchStream(text, batch_size=BATCH_SIZE, seq_len=TEXT_LEN, seed=context.seed, validation_batches=batches)

    context.begin("balance of layouts", 0.02)
    values = _balance(context)
    context.begin("copying, dense", 0.25)
    model, _ = _trained(context, copies(), 500, lambda: causal_attention)
    values["copy, dense"] = _accuracy(model, copies())
    values |= _switched(context, model, copies())
    values |= _recall(context, model, copies(), "copy")
    context.begin("copying, sparse", 0.35)
    model, _ = _trained(context, copies(), 500, _sparse)
    values["copy, sparse from the start"] = _accuracy(model, copies())
    context.begin("text, dense", 0.16)
    model, values["text, dense"] = _trained(context, bytes_(), 300, lambda: causal_attention)
    values |= _recall(context, model, bytes_(), "text")
    context.begin("text, sparse", 0.22)
    _, values["text, sparse"] = _trained(context, bytes_(), 300, _sparse)
    return values


def _sparse() -> SparseAttention:
    return SparseAttention(SELECTION, BLOCK)


def _balance(context: Context) -> dict[str, float]:
    """Mean imbalance step by step over draws of random diagonals and columns."""
    generator = torch.Generator().manual_seed(context.seed)
    found: dict[str, list[float]] = {}
    for _ in range(context.count(DRAWS)):
        columns, diagonals = torch.zeros(2, 1, 1, POSITIONS, dtype=torch.bool)
        columns[..., torch.randperm(POSITIONS, generator=generator)[:COLUMNS]] = True
        diagonals[..., torch.randperm(POSITIONS, generator=generator)[:DIAGONALS]] = True
        work = tile_work(SparseIndex(columns, diagonals), TILE)
        for world in (4, 8):
            for layout in Layout:
                spread = ring_work(work, tile_owners(POSITIONS // TILE, world, layout), world)
                found.setdefault(f"imbalance, {layout}, {world}", []).append(step_imbalance(spread))
    return {name: fmean(draws) for name, draws in found.items()}


def _trained(context: Context, data: BatchSource, steps: int, attend: Callable[[], Attend]) -> tuple[Llama, float]:
    """The model, and its validation loss in nats per token."""
    model = tiny_llama(context.seed, vocab_size=VOCAB_SIZE)
    _switch(model, [attend() for _ in model.layers])
    trainer = context.fit(context.prepare(model), data, context.steps(steps))
    return model, trainer.evaluate()["val_loss"]


def _switch(model: Llama, attends: Sequence[Attend]) -> None:
    for layer, attend in zip(attention_layers(model), attends, strict=True):
        layer.attend = attend


@torch.no_grad()
def _accuracy(model: Llama, data: BatchSource) -> float:
    """Share of labelled tokens that are the most likely ones, given all before them."""
    right = total = 0
    for batch in data.validation():
        labelled = batch["labels"] >= 0
        right += int((model(batch["input_ids"]).argmax(dim=-1) == batch["labels"])[labelled].sum())
        total += int(labelled.sum())
    return right / total


def _switched(context: Context, model: Llama, data: TaskSource) -> dict[str, float]:
    """Accuracy of the dense model with other attention, all of the same density, which is the sparse one's."""
    sparse = [_sparse() for _ in model.layers]
    _switch(model, sparse)
    values = {"switched, sparse": _accuracy(model, data)}
    density = fmean(attend.density for attend in sparse)
    generator = torch.Generator().manual_seed(context.seed)
    heads = (model.config.num_heads,)
    for name, entries in (
        ("random", [random_entries(heads, data.seq_len, density, generator) for _ in sparse]),
        ("window", [window_entries(data.seq_len, density)] * len(sparse)),
    ):
        _switch(model, [FixedAttention(mask) for mask in entries])
        values[f"switched, {name}"] = _accuracy(model, data)
    return values | {"switched, density": density}


@torch.no_grad()
def _recall(context: Context, model: Llama, data: BatchSource, what: str) -> dict[str, float]:
    """Share of the dense attention mass that lies in the entries, over query rows that were no probes."""
    listening = [Listening() for _ in model.layers]
    _switch(model, listening)
    ids = data.validation()[0]["input_ids"]
    model(ids)
    size = ids.shape[1]
    generator = torch.Generator().manual_seed(context.seed)
    kept: dict[str, list[float]] = {}
    for layer in listening:
        weights, sparse = causal_weights(layer.q, layer.k), sparse_entries(layer.q, layer.k, SELECTION, BLOCK)
        density = float(sparse.sum() / sparse.shape[:2].numel() / (size * (size + 1) / 2))
        for name, entries in (
            ("sparse", sparse),
            ("random", random_entries(sparse.shape[:2], size, density, generator)),
            ("window", window_entries(size, density)),
        ):
            mass = (weights * entries).sum(dim=-1)[..., : -SELECTION.probes]
            kept.setdefault(f"{what}, mass in {name}", []).append(float(mass.mean()))
        kept.setdefault(f"{what}, density", []).append(density)
    return {name: fmean(layers) for name, layers in kept.items()}


def _more_mass(what: str, one: str, other: str, judged: bool = True) -> Claim:
    text = f"attention mass kept, {what}: {one} over {other}"
    return Claim(text, f"{what}, mass in {one}", f"{what}, mass in {other}", better="higher", judged=judged)


EXPERIMENT = Experiment(
    setting="Balance: 20 draws of 8 diagonals and 16 columns of 16384 positions in tiles of 64, on rings of 4 and 8."
    " Quality: the preset tiny; mass 0.9, 16 probes, 1 sink, a window of 4, tiles of 4. 500 steps of copying 48 random"
    " letters: a densely trained model whose attention is then switched, to sparse, random or windowed of the same"
    " density; and one with sparse attention from the start. 300 steps on 1 MB of the standard library at context 96:"
    " losses. The attention mass kept is that of the densely trained models, of queries that were no probes.",
    claims=(
        *(
            Claim(f"work of the slowest over the mean, striped ring of {n}", f"imbalance, striped, {n}", 1.1)
            for n in (4, 8)
        ),
        *(
            Claim(f"the same, zigzag ring of {n}, is above 1.1", f"imbalance, zigzag, {n}", 1.1, better="higher")
            for n in (4, 8)
        ),
        *(
            Claim(f"accuracy when switched: sparse over {name}", "switched, sparse", f"switched, {name}", "higher", 0.2)
            for name in ("random", "window")
        ),
        Claim("accuracy when switched: sparse as dense", "switched, sparse", "copy, dense", "higher", -0.2),
        Claim("accuracy, sparse from the start as dense", "copy, sparse from the start", "copy, dense", "higher", -0.2),
        Claim("loss on text, nats per byte: sparse as dense", "text, sparse", "text, dense", margin=-0.03),
        _more_mass("copy", "sparse", "window"),
        _more_mass("copy", "sparse", "random"),
        _more_mass("copy", "window", "random", judged=False),
        _more_mass("text", "sparse", "random"),
        _more_mass("text", "sparse", "window", judged=False),
    ),
    run=_run,
    seeds=5,
)
