"""What MIGU claims, at the size of a byte model: more is kept of the old text when the new one is learned as well.

Claims compare the old text's loss where every arm has the same loss on the new text, as masking also slows learning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

from torch import nn

from narrowgauge.train import BatchStream, ByteCorpus, Claim, Constant, Context, Experiment, Method, tiny_llama
from narrowgauge.train.tasks.sentences import sentence_corpus
from narrowgauge.train.tradeoff import TradeOff, lowest_first, second_at

ROWS, LENGTH = 16, 64
BASE_STEPS, NEW_STEPS = 300, 160
SENTENCES = 5000


def new_text(seed: int, validation_batches: int) -> BatchStream:
    """Endless batches of templated sentences, 16 rows of 64 bytes."""
    return BatchStream(
        sentence_corpus(SENTENCES, seed=seed),
        batch_size=ROWS,
        seq_len=LENGTH,
        seed=seed,
        validation_batches=validation_batches,
    )


def _matrices_only(model: nn.Module) -> nn.Module:
    """Only the matrices of attention and MLP learn, which are those that MIGU masks."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("_proj" in name)
    return model


def _compare(migu: Callable[..., Method], context: Context) -> dict[str, float]:
    old_text = BatchStream(
        ByteCorpus(max_bytes=1_000_000),
        batch_size=ROWS,
        seq_len=LENGTH,
        seed=context.seed,
        validation_batches=context.count(4),
    )
    context.begin("the base, on the standard library", 0.3)
    base = context.fit(context.prepare(tiny_llama(context.seed)), old_text, context.steps(BASE_STEPS)).model
    steps = context.steps(NEW_STEPS)
    at = {round(steps * (i / 40) ** 2) for i in range(1, 41)}  # close together in the beginning, where losses move fast
    arms: dict[str, list[Method]] = {
        "full": [],
        "migu": [migu()],
        "random": [migu(choice="random", seed=context.seed)],
        "smallest": [migu(choice="smallest")],
    }
    runs = {}
    for name, methods in arms.items():
        context.begin(f"the new text: {name}", 0.7 / len(arms))
        data = new_text(context.seed, context.count(4))
        trace = TradeOff(data.validation(), old_text.validation(), at)
        model = _matrices_only(copy.deepcopy(base))
        context.fit(model, data, steps, lr=1e-3, schedule=Constant(1e-3), methods=[*methods, trace])
        runs[name] = trace.points
    level = max(lowest_first(points) for points in runs.values())
    values = {name: second_at(points, level) for name, points in runs.items()}
    ends = {f"{name}, new text at the end": points[-1][0] for name, points in runs.items()}
    ends |= {f"{name}, old text at the end": points[-1][1] for name, points in runs.items()}
    return {**values, **ends, "level of the new text": level, "old text before": runs["full"][0][1]}


def migu_experiment(migu: Callable[..., Method]) -> Experiment:
    """See the module; ``migu`` makes the method of settings."""
    return Experiment(
        setting=f"A Llama 64 wide with 2 layers, {BASE_STEPS} steps on 1 MB of the standard library; then {NEW_STEPS}"
        " steps on templated sentences about sums and doses at the constant rate 0.001, with only the matrices of"
        " attention and MLP trained. Numbers are the loss on the library where each arm's loss on the sentences comes"
        " down to the same level, the highest of their lowest.",
        claims=(
            Claim(
                "loss on the old text at equal loss on the new one, against full training", "migu", "full", margin=0.1
            ),
            Claim("ablation: against training the weakest units", "migu", "smallest", margin=0.1, judged=False),
            Claim("ablation: against random units", "migu", "random", judged=False),
        ),
        run=partial(_compare, migu),
        seeds=5,
    )
