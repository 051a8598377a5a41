"""The experiment of CORGI: the same examples in five orders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from narrowgauge.train import Claim, Context, Experiment, Method, tiny_llama
from narrowgauge.train.tasks import TaskSource, accuracy
from narrowgauge.train.tasks.subjects import subjects
from narrowgauge.train.tokens import VOCAB_SIZE

SEQ_LEN, MAX_NEW_TOKENS = 21, 13
"""The longest prompt has 9 bytes, the longest answer 12."""
EPOCHS, BATCH_SIZE = 8, 16
ARMS: dict[str, dict[str, Any]] = {
    "interleaving": {},
    "blocking": {"order": "blocking"},
    "hard to easy": {"reverse": True},
    "capped": {"order": "capped"},
    "random": {"order": "random"},
}


def corgi_experiment(method: Callable[..., Method]) -> Experiment:
    """Held-out accuracy of each order; ``method`` makes the plug-in from its settings."""
    return Experiment(
        setting="A Llama 64 wide with 2 layers, trained from scratch on six subjects of string exercises at three"
        " levels (2, 4 and 6 letters), 170 examples of each, 8 epochs of batches of 16; the same weights, examples and"
        " learning rates for every order. Accuracy is greedy and exact on 180 held-out exercises.",
        claims=(
            _claim("interleaving", "blocking", margin=0.1),
            _claim("interleaving", "random"),
            _claim("interleaving", "hard to easy", judged=False),
            _claim("capped", "interleaving", judged=False),
            _claim("capped", "random", judged=False),
        ),
        run=partial(_compare, method),
        seeds=5,
    )


def _claim(treatment: str, control: str, *, margin: float = 0.0, judged: bool = True) -> Claim:
    text = f"accuracy over all subjects and levels, {treatment} against {control}"
    return Claim(text, treatment, control, better="higher", margin=margin, judged=judged)


def _compare(method: Callable[..., Method], context: Context) -> dict[str, float]:
    train, held_out = subjects(context.count(170), context.count(10), seed=context.seed)
    steps = EPOCHS * len(train) // BATCH_SIZE
    values = {}
    for arm, settings in ARMS.items():
        context.begin(arm, 1 / len(ARMS))
        model = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE, max_seq_len=32))
        data = TaskSource(train, held_out, batch_size=BATCH_SIZE, seq_len=SEQ_LEN, seed=context.seed)
        order = method(**settings, epochs=EPOCHS, seed=context.seed)
        model = context.fit(model, data, steps, methods=[order]).model
        values[arm] = accuracy(model, held_out, max_new_tokens=MAX_NEW_TOKENS)
    return values
