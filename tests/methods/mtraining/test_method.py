from pathlib import Path

import pytest
import torch
from torch import nn

from narrowgauge.methods.mtraining import MTraining, SparseAttention
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer

CONFIG = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=64, max_seq_len=32)
# At the start attention is even, and much is needed for a share of its mass: hence the caps.
SMALL = {"mass": 0.6, "probes": 8, "sinks": 1, "window": 2, "max_columns": 3, "max_diagonals": 3, "block": 4}


def trainer_with(*methods: MTraining, recipe: str | None = None, accumulation: int = 1) -> Trainer:
    model = Llama(CONFIG)
    if recipe is not None:
        convert(model, recipe)
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=32, validation_batches=2)
    if recipe is None:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    else:
        optimizer = AdamW(model.named_parameters(), lr=1e-2, state="log8", seed=0)
    return Trainer(model, data, optimizer, methods=methods, grad_accumulation=accumulation)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["mtraining"] is MTraining


def test_every_layer_gets_one_of_its_own_and_reports_its_density() -> None:
    method = MTraining(**SMALL)
    trainer = trainer_with(method)
    attends = [layer.self_attn.attend for layer in trainer.model.layers]
    assert attends == method.layers
    assert len({id(attend) for attend in attends}) == 2
    assert all(isinstance(attend, SparseAttention) for attend in attends)
    density = trainer.evaluate()["mtraining_density"]
    assert density == pytest.approx(sum(attend.density for attend in attends) / 2)
    assert 0.1 < density < 0.9


def test_mass_1_trains_as_dense_attention() -> None:
    plain, full, sparse = trainer_with(), trainer_with(MTraining(mass=1.0)), trainer_with(MTraining(**SMALL))
    losses = [trainer.fit(3)["loss"] for trainer in (plain, full, sparse)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert abs(losses[2] - losses[0]) > 1e-5


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    straight, first, second = (trainer_with(MTraining(**SMALL), accumulation=2) for _ in range(3))
    straight.fit(4)
    first.fit(2)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(4)
    assert same(straight.model, second.model)
    assert straight.evaluate() == second.evaluate()


def test_it_composes_with_a_recipe_and_states() -> None:
    trainer = trainer_with(MTraining(**SMALL), recipe="fp8_row")
    before = trainer.evaluate()["val_loss"]
    trainer.fit(8)
    assert trainer.evaluate()["val_loss"] < before - 0.5


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="mtraining: Linear has no layer with plain causal attention"):
        MTraining().surgery(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Llama has no layer with plain causal attention"):
        MTraining().surgery(MTraining().surgery(Llama(CONFIG))[0])
    with pytest.raises(ValueError, match="block: expected at least 1, got 0"):
        MTraining(block=0)
    with pytest.raises(ValueError, match="mass: expected"):
        MTraining(mass=1.5)
