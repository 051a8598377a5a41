"""Training without a float master: on the grid after every step, and resumed to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from narrowgauge.nn import convert
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, OnGrid, Trainer

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def trainer(**options: object) -> Trainer:
    model = convert(Llama(SMALL, seed=0), "dqt8")
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Trainer(model, data, optimizer, methods=[OnGrid(seed=3)], **options)  # type: ignore[arg-type]


def test_weights_are_on_the_grid_after_every_step() -> None:
    run = trainer()
    for steps in (1, 2, 5):
        run.fit(steps)
        weight = run.model.layers[0].mlp.up_proj.weight.detach()
        assert len(weight.unique()) <= 255


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = trainer()
    whole.fit(6)
    first = trainer(save_every=3, save_path=tmp_path / "run")
    first.fit(3)
    second = trainer()
    second.resume(tmp_path / "run")
    second.fit(6)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), second.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_it_has_to_be_attached_and_needs_layers_with_a_grid() -> None:
    with pytest.raises(ValueError, match="not attached"):
        OnGrid().state_dict()
    with pytest.raises(ValueError, match="model: no layer"):
        OnGrid().attach(Llama(SMALL, seed=0))
