"""A corpus, a model and a trainer that are small enough for many runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer

SMALL = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


@pytest.fixture(scope="session")
def corpus() -> ByteCorpus:
    """A part of the standard library's sources."""
    return ByteCorpus(max_bytes=200_000)


@pytest.fixture
def make_stream(corpus: ByteCorpus) -> Callable[..., BatchStream]:
    """A stream of small batches."""

    def make(**settings: Any) -> BatchStream:
        return BatchStream(corpus, **{"batch_size": 4, "seq_len": 16, "validation_batches": 2} | settings)

    return make


@pytest.fixture
def make_trainer(make_stream: Callable[..., BatchStream]) -> Callable[..., Trainer]:
    """A trainer of a fresh small Llama with AdamW; ``model``, ``data`` and ``optimizer`` may be given."""

    def make(
        *,
        model: torch.nn.Module | None = None,
        data: BatchStream | None = None,
        optimizer: Any = None,
        **settings: Any,
    ) -> Trainer:
        model = Llama(SMALL, seed=0) if model is None else model
        data = make_stream() if data is None else data
        if optimizer is None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        return Trainer(model, data, optimizer, **settings)

    return make


@pytest.fixture
def weights() -> Callable[[Trainer], Tensor]:
    """All weights of a trainer's model in one vector."""

    def join(trainer: Trainer) -> Tensor:
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    return join
