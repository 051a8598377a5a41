"""A model and a source of rollouts that are small enough for many rounds."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from narrowgauge.train import Llama, LlamaConfig, Trainer
from narrowgauge.train.method import Method
from narrowgauge.train.rl import RolloutSource
from narrowgauge.train.rl.rewards import Completion
from narrowgauge.train.tasks import Example
from narrowgauge.train.tokens import VOCAB_SIZE

SMALL = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)
ITEMS = (Example(b"a", b"x"), Example(b"bcd", b"y"))


def share_of_ascii(item: Example, completion: Completion) -> float:
    """How many of the tokens are below 128; something that can be learned in a few steps."""
    return sum(token < 128 for token in completion.ids) / max(1, len(completion))


@pytest.fixture
def make_source() -> Callable[..., RolloutSource]:
    """Two prompts, four completions of up to three tokens."""

    def make(**settings: Any) -> RolloutSource:
        rewards = {"ascii": share_of_ascii}
        chosen = {"prompts": lambda _round: ITEMS, "rewards": rewards, "group_size": 4, "max_new_tokens": 3} | settings
        return RolloutSource(chosen.pop("prompts"), chosen.pop("rewards"), **chosen)

    return make


@pytest.fixture
def train() -> Callable[..., Trainer]:
    """A trainer of a fresh model with AdamW, after ``steps`` steps."""

    def make(source: Any, methods: Sequence[Method], steps: int, lr: float = 1e-2, **settings: Any) -> Trainer:
        trainer = Trainer(
            Llama(SMALL, seed=0),
            source,
            lambda groups: torch.optim.AdamW(groups, lr=lr, weight_decay=0.0),
            methods=methods,
            **settings,
        )
        trainer.fit(steps)
        return trainer

    return make
