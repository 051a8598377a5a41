from pathlib import Path

import pytest
import torch
from torch import nn

from narrowgauge.methods.ema import EMA
from narrowgauge.train import METHODS, SHOWN, BatchStream, ByteCorpus, Context, Llama, LlamaConfig, Trainer, judge

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def trainer_with(*methods: EMA) -> Trainer:
    model = Llama(SMALL, seed=0)
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Trainer(model, data, optimizer, methods=methods)


def test_importing_the_methods_registers_it() -> None:
    assert METHODS["ema"] is EMA


def test_the_average_follows_its_formula() -> None:
    model, method = nn.Linear(1, 1, bias=False), EMA(decay=0.5)
    values = [1.0, 3.0, 7.0, 2.0]
    expected = values[0]
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        if step == 0:
            method.attach(model)
        else:
            method.post_step(model, step - 1, None)
            ramp = min(0.5, step / (9 + step))  # (1 + t) / (10 + t) with t = step - 1
            expected += (1 - ramp) * (value - expected)
    assert method.average["weight"].item() == pytest.approx(expected)


def test_decay_zero_is_the_last_weights() -> None:
    method = EMA(decay=0.0)
    trainer = trainer_with(method)
    trainer.fit(3)
    metrics = trainer.evaluate()
    assert metrics["ema_val_loss"] == metrics["val_loss"]


def test_training_does_not_notice_it() -> None:
    plain, averaged = trainer_with(), trainer_with(EMA(decay=0.9))
    for trainer in (plain, averaged):
        trainer.fit(4)
        trainer.evaluate()
    pairs = zip(plain.model.parameters(), averaged.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_average_is_used_inside_and_the_weights_come_back_to_the_bit() -> None:
    method = EMA(decay=0.9)
    trainer = trainer_with(method)
    trainer.fit(3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with method.averaged(trainer.model) as model:
        assert all(torch.equal(p, method.average[name]) for name, p in model.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert not torch.equal(before["norm.weight"], method.average["norm.weight"])


def test_the_average_of_a_bfloat16_model_is_float32() -> None:
    model, method = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16), EMA(decay=0.999)
    with torch.no_grad():
        model.weight.fill_(1.0)
    method.attach(model)
    with torch.no_grad():
        model.weight.fill_(1.0078125)
    for step in range(100_000, 100_010):
        method.post_step(model, step, None)
    assert 1.0 < method.average["weight"].item() < 1.0001


def test_a_resumed_run_has_the_same_average(tmp_path: Path) -> None:
    straight, first, second = (trainer_with(EMA(decay=0.9)) for _ in range(3))
    straight.fit(6)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(6)
    assert straight.evaluate() == second.evaluate()


def test_an_average_with_another_decay_or_of_another_model_is_refused() -> None:
    method = EMA(decay=0.9)
    method.attach(nn.Linear(1, 1))
    saved = method.state_dict()
    other = EMA(decay=0.99)
    other.attach(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"decay: the saved average has 0.9, this one 0.99"):
        other.load_state_dict(saved)
    bare = EMA(decay=0.9)
    bare.attach(nn.Linear(1, 1, bias=False))
    with pytest.raises(ValueError, match="ema: the saved average is of other parameters"):
        bare.load_state_dict(saved)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\)"):
        EMA(decay=decay)


def test_the_experiment_shows_a_lower_loss_of_the_average() -> None:
    experiment = EMA.experiment()
    values = [experiment.run(Context(seed)) for seed in range(experiment.seeds)]
    result = judge(experiment.claims[0], values)
    assert result.verdict == SHOWN, str(result.effect)
