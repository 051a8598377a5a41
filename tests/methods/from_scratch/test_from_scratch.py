from pathlib import Path

import pytest
import torch

from narrowgauge.methods.from_scratch import FromScratch
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def make(method: FromScratch) -> Trainer:
    model = Llama(SMALL, seed=0)
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Trainer(model, data, optimizer, methods=[method], grad_accumulation=2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    trainer = make(FromScratch(steps=10, settings="lr = 0.01"))
    trainer.fit(2)
    trainer.save(tmp_path / "last")
    return tmp_path / "last"


def test_another_horizon_is_refused_unless_it_is_asked_for(saved: Path) -> None:
    with pytest.raises(ValueError, match="steps: the saved run ends at step 10, this one at 12; its learning rate"):
        make(FromScratch(steps=12, settings="lr = 0.01")).resume(saved)
    trainer = make(FromScratch(steps=12, extend=True, settings="lr = 0.01"))
    trainer.resume(saved)
    assert trainer.step == 2


def test_other_settings_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="settings: the saved run has other settings"):
        make(FromScratch(steps=10, settings="lr = 0.02")).resume(saved)


def test_tokens_are_counted_across_a_resume(saved: Path) -> None:
    trainer = make(FromScratch(steps=10, settings="lr = 0.01"))
    trainer.resume(saved)
    trainer.fit(3)
    assert trainer.evaluate()["from_scratch_tokens"] == 3 * 2 * 4 * 16


def test_training_does_not_notice_it() -> None:
    with_it = make(FromScratch(steps=3))
    without = make(FromScratch(steps=3))
    without.methods = type(without.methods)([])
    for trainer in (with_it, without):
        trainer.fit(3)
    pairs = zip(with_it.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_without_a_length_is_refused() -> None:
    with pytest.raises(ValueError, match="steps: expected the run's number of steps, at least 1, got 0"):
        FromScratch()
