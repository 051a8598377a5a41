import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import (
    BatchStream,
    ByteCorpus,
    ConsoleLogger,
    Constant,
    History,
    Llama,
    LlamaConfig,
    Method,
    Trainer,
    WarmupCosine,
)
from narrowgauge.train.data import Batch

MakeTrainer = Callable[..., Trainer]
Weights = Callable[[Trainer], Tensor]


def test_loss_falls_well_below_guessing_on_real_text(corpus: ByteCorpus) -> None:
    config = LlamaConfig(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=64, max_seq_len=32)
    model, history = Llama(config, seed=0), History()
    data = BatchStream(corpus, batch_size=8, seq_len=32, validation_batches=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = Trainer(model, data, optimizer, schedule=WarmupCosine(1e-2, 120, 10), logger=history)
    assert trainer.evaluate()["val_loss"] == pytest.approx(math.log(256), abs=0.05)
    trainer.fit(120)
    assert trainer.evaluate()["val_loss"] < 3.0
    assert sum(history["loss"][-10:]) / 10 < 3.0


def test_each_step_reports_its_metrics(make_trainer: MakeTrainer) -> None:
    history = History()
    trainer = make_trainer(logger=history, schedule=WarmupCosine(1e-2, 3, 2), eval_every=2)
    last = trainer.fit(3)
    assert history["lr"] == pytest.approx([5e-3, 1e-2, 1e-3])
    assert history.steps("loss") == [1, 2, 3]
    assert history.steps("val_loss") == [2, 3]
    assert {"loss", "lr", "grad_norm", "tokens_per_s", "step_ms"} <= set(history.records[0])
    assert all(record["step_ms"] > 0 and record["grad_norm"] > 0 for record in history.records)
    assert last.items() <= history.records[-1].items()


def test_one_seed_gives_the_same_bits_and_loggers_and_evaluation_change_none(
    weights: Weights, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_trainer()
    plain.fit(4)
    watched = make_trainer(logger=[ConsoleLogger(every=1), History()], eval_every=1)
    torch.manual_seed(1234)
    watched.fit(4)
    assert torch.equal(weights(plain), weights(watched))


def test_dropout_depends_on_the_trainers_seed_and_not_on_the_callers_generator(
    weights: Weights,
    make_trainer: MakeTrainer,
) -> None:
    def run(seed: int, caller_seed: int) -> Tensor:
        torch.manual_seed(caller_seed)
        torch_state = torch.get_rng_state()
        model = nn.Sequential(nn.Embedding(256, 8), nn.Dropout(0.5), nn.Linear(8, 256))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        torch.set_rng_state(torch_state)
        trainer = make_trainer(model=model, seed=seed, eval_every=1)
        trainer.fit(3)
        assert torch.equal(torch.get_rng_state(), torch_state)
        return weights(trainer)

    assert torch.equal(run(0, 1), run(0, 2))
    assert not torch.equal(run(0, 1), run(1, 1))


def test_accumulation_equals_one_large_batch(
    make_trainer: MakeTrainer, make_stream: Callable[..., BatchStream]
) -> None:
    class Joined(BatchStream):
        def __next__(self) -> Batch:
            parts = [super(Joined, self).__next__() for _ in range(3)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    split = make_trainer(grad_accumulation=3, clip_norm=None)
    stream = make_stream()
    joined_data = Joined(stream.corpus, batch_size=4, seq_len=16, validation_batches=2)
    joined = make_trainer(data=joined_data, clip_norm=None)
    for trainer in (split, joined):
        trainer.fit(1)
    gradients = [torch.cat([p.grad.flatten() for p in t.parameters if p.grad is not None]) for t in (split, joined)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert split.data.state_dict()["position"] == joined.data.state_dict()["position"] == 3


def test_a_loss_that_is_not_finite_stops_the_run_before_it_harms_the_weights(
    weights: Weights,
    make_trainer: MakeTrainer,
) -> None:
    class Explodes(Method):
        def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
            self.count = getattr(self, "count", 0) + 1
            scale = math.nan if self.count == 3 else 1.0
            return model(batch["input_ids"]).square().mean() * scale, {}

    history = History()
    trainer = make_trainer(methods=[Explodes()], logger=history)
    with pytest.raises(FloatingPointError, match="loss is nan at step 2; the weights are those before this step"):
        trainer.fit(5)
    assert trainer.step == 2
    assert history.steps("loss") == [1, 2]
    assert weights(trainer).isfinite().all()


def test_gradients_left_by_the_caller_do_not_leak_into_the_run(weights: Weights, make_trainer: MakeTrainer) -> None:
    clean, dirty = make_trainer(), make_trainer()
    for parameter in dirty.parameters:
        parameter.grad = torch.ones_like(parameter)
    for trainer in (clean, dirty):
        trainer.fit(1)
    assert torch.equal(weights(clean), weights(dirty))


def test_evaluation_keeps_the_mode_and_the_weights(weights: Weights, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    before = weights(trainer)
    for training in (True, False):
        trainer.model.train(training)
        assert set(trainer.evaluate()) == {"val_loss"}
        assert trainer.model.training is training
    assert torch.equal(weights(trainer), before)


def test_evaluation_is_without_dropout(make_trainer: MakeTrainer) -> None:
    model = nn.Sequential(nn.Embedding(256, 8), nn.Dropout(0.5), nn.Linear(8, 256))
    first, second = (make_trainer(model=model, seed=seed).evaluate() for seed in (0, 1))
    assert first == second


def test_evaluation_of_a_model_that_draws_repeats_and_leaves_the_caller_alone(
    make_trainer: MakeTrainer,
) -> None:
    class Noisy(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            logits = super().forward(input)
            return logits + torch.randn_like(logits)

    trainer = make_trainer(model=Noisy(256, 256))
    before = torch.get_rng_state()
    assert trainer.evaluate() == trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)


def test_fit_counts_all_steps_and_refuses_to_go_back(weights: Weights, make_trainer: MakeTrainer) -> None:
    trainer, straight = make_trainer(schedule=Constant(1e-2)), make_trainer(schedule=Constant(1e-2))
    trainer.fit(2)
    trainer.fit(4)
    straight.fit(4)
    assert trainer.step == 4
    assert torch.equal(weights(trainer), weights(straight))
    assert trainer.fit(4) == {}
    with pytest.raises(ValueError, match="steps: 4 are already done, expected at least as many, got 3"):
        trainer.fit(3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"grad_accumulation": 0}, ValueError, "grad_accumulation: expected at least 1, got 0"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: expected a number above 0 or None, got 0.0"),
        ({"eval_every": -1}, ValueError, r"eval_every: expected 0 \(never\) or more, got -1"),
        ({"save_every": 5}, ValueError, "save_path: expected together with save_every, got None"),
        ({"save_path": "x"}, ValueError, "save_path: expected together with save_every, got 'x'"),
        ({"data": [1, 2]}, TypeError, "data: expected a BatchSource such as BatchStream.* got list"),
        ({"logger": "console"}, TypeError, "logger: expected start, log and stop, got str"),
        ({"methods": ["ema"]}, TypeError, "methods: expected instances of Method, got 'ema'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(
    make_trainer: MakeTrainer, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_trainer(**settings)


@pytest.mark.gpu
def test_a_run_on_cuda_learns_and_reports_the_peak(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(device="cuda", eval_every=5)
    metrics = trainer.fit(20)
    assert metrics["val_loss"] < math.log(256)
    assert metrics["memory_bytes"] == torch.cuda.max_memory_allocated()
