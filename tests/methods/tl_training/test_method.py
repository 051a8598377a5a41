from pathlib import Path

import pytest
import torch

from narrowgauge.methods.tl_training import TLTraining, tool_source
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, Llama, LlamaConfig, Trainer
from narrowgauge.train.tasks import TOOLS, TaskSource, conversations, copying
from narrowgauge.train.tokens import VOCAB_SIZE

SMALL = LlamaConfig(
    dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=112, vocab_size=VOCAB_SIZE
)


def trainer_with(*methods: TLTraining, rows: int = 4, **settings: object) -> Trainer:
    turns = conversations(12, seed=0)
    data = tool_source(turns, turns[:2], tools=TOOLS, batch_size=rows, seq_len=112, seed=0)
    model = Llama(SMALL, seed=0)
    return Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1), methods=methods, **settings)  # type: ignore[arg-type]


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["tl_training"] is TLTraining


def test_a_weight_of_one_is_ordinary_training() -> None:
    plain, weighed, other = trainer_with(), trainer_with(TLTraining(max_weight=1)), trainer_with(TLTraining())
    losses = [trainer.fit(2)["loss"] for trainer in (plain, weighed, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)
    for a, b in zip(weights(plain), weights(weighed), strict=True):
        torch.testing.assert_close(a, b)


def test_micro_batches_are_one_large_batch() -> None:
    large, small = trainer_with(TLTraining()), trainer_with(TLTraining(), rows=2, grad_accumulation=2)
    large.fit(2)
    small.fit(2)
    for a, b in zip(weights(large), weights(small), strict=True):
        torch.testing.assert_close(a, b)


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    straight, first, second = (trainer_with(TLTraining()) for _ in range(3))
    straight.fit(4)
    first.fit(2)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(4)
    assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(second), strict=True))


def test_it_composes_with_a_recipe_and_compressed_states() -> None:
    turns = conversations(4, seed=0)
    data = tool_source(turns, turns, tools=TOOLS, batch_size=4, seq_len=112, seed=0)
    model = convert(Llama(SMALL, seed=0), "fp8_row")
    optimizer = AdamW(model.parameters(), lr=1e-3, state="log8")
    assert Trainer(model, data, optimizer, methods=[TLTraining()]).fit(2)["loss"] < 10


def test_batches_without_classes_are_refused() -> None:
    train, held_out = copying(8, 4, seed=0)
    model = Llama(SMALL, seed=0)
    data = TaskSource(train, held_out, batch_size=2, seq_len=100, seed=0)
    trainer = Trainer(model, data, torch.optim.SGD(model.parameters(), lr=0.1), methods=[TLTraining()])
    with pytest.raises(ValueError, match="data: tl_training reads batches with token_class"):
        trainer.fit(1)


@pytest.mark.parametrize("max_weight", [0.5, 0.0, float("nan")])
def test_an_impossible_weight_is_refused(max_weight: float) -> None:
    with pytest.raises(ValueError, match="max_weight: expected a number of at least 1"):
        TLTraining(max_weight=max_weight)
