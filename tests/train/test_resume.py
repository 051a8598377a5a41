"""Saving and resuming a run: the same bits as a run that was never interrupted."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import (
    BatchStream,
    History,
    Llama,
    LlamaConfig,
    Method,
    Trainer,
    WarmupCosine,
    load_checkpoint,
)
from narrowgauge.train.data import Batch
from narrowgauge.train.tree import flatten

MakeTrainer = Callable[..., Trainer]
TIMES = {"tokens_per_s", "step_ms", "memory_bytes"}


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """All tensors of a run by name."""
    state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    return flatten(state)[1]


def assert_same_bits(a: Trainer, b: Trainer) -> None:
    left, right = everything(a), everything(b)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


class Stateful(Method):
    """Draws at random in the data and keeps a tensor of its own."""

    name = "stateful"

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64)

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        noise = torch.randint(0, 256, batch["input_ids"].shape, generator=rng)
        keep = torch.rand(noise.shape, generator=rng) < 0.8
        return {**batch, "input_ids": torch.where(keep, batch["input_ids"], noise)}

    def post_step(self, model: nn.Module, step: int, old: Any) -> None:
        self.total += sum(p.double().sum() for p in model.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: Any) -> None:
        self.total = state["total"]


class CodedSGD(torch.optim.Optimizer):
    """Momentum as uint8 codes and a scale; torch's own load_state_dict would make floats of the codes."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = (state["codes"].float() - 128) * state["scale"] if state else torch.zeros_like(p)
                momentum.mul_(0.9).add_(p.grad)
                state["scale"] = momentum.abs().amax().clamp(min=1e-30) / 127
                state["codes"] = (momentum / state["scale"] + 128).round().to(torch.uint8)
                state["step"] = state.get("step", 0) + 1
                p.sub_(momentum, alpha=group["lr"])


@pytest.mark.parametrize("tied", [False, True])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    make_trainer: MakeTrainer, tmp_path: Path, tied: bool
) -> None:
    def build(logger: History) -> Trainer:
        config = LlamaConfig(
            dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16, tie_embeddings=tied
        )
        settings = {"schedule": WarmupCosine(1e-2, 8, 2), "methods": [Stateful()], "grad_accumulation": 2}
        return make_trainer(model=Llama(config), logger=logger, eval_every=3, seed=7, **settings)

    histories = [History(), History(), History()]
    straight, first, second = (build(history) for history in histories)
    straight.fit(8)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    assert_same_bits(first, second)
    second.fit(8)
    assert_same_bits(straight, second)
    assert torch.equal(straight.methods.methods[0].total, second.methods.methods[0].total)  # type: ignore[attr-defined]
    numbers = [[{k: v for k, v in r.items() if k not in TIMES} for r in h.records] for h in histories]
    assert numbers[0] == numbers[1] + numbers[2]


def test_an_optimizer_with_codes_resumes_to_the_same_bits(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def build() -> Trainer:
        return make_trainer(optimizer=lambda groups: CodedSGD(groups, lr=0.05))

    straight, first, second = build(), build(), build()
    straight.fit(6)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(6)
    assert_same_bits(straight, second)
    assert any(tensor.dtype == torch.uint8 for tensor in everything(second).values())


def test_a_data_source_that_draws_globally_resumes_too(
    make_trainer: MakeTrainer, make_stream: Callable[..., BatchStream], tmp_path: Path
) -> None:
    class Restless(BatchStream):
        def __next__(self) -> Batch:
            shift = random.randrange(9) + int(np.random.rand() * 9) + int(torch.randint(9, ()))  # noqa: NPY002
            return {name: (value + shift) % 256 for name, value in super().__next__().items()}

    def build() -> Trainer:
        data = Restless(make_stream().corpus, batch_size=2, seq_len=16, validation_batches=1)
        return make_trainer(data=data)

    first = build()
    first.fit(2)
    first.save(tmp_path / "last")
    first.fit(5)
    second = build()
    second.resume(tmp_path / "last")
    second.fit(5)
    assert_same_bits(first, second)


def test_checkpoints_are_written_every_n_steps_and_at_the_end(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    saved = []

    class Spy(History):
        def log(self, step: int, metrics: Any) -> None:
            path = tmp_path / "last"
            saved.append(load_checkpoint(path)["loop"]["step"] if path.exists() else None)

    trainer = make_trainer(save_every=2, save_path=tmp_path / "last", logger=Spy())
    trainer.fit(5)
    assert saved == [None, None, 2, 2, 4]
    assert load_checkpoint(tmp_path / "last")["loop"]["step"] == 5


def test_the_model_file_holds_a_tied_matrix_once(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    config = LlamaConfig(
        dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16, tie_embeddings=True
    )
    trainer = make_trainer(model=Llama(config))
    trainer.save(tmp_path / "last")
    model = load_checkpoint(tmp_path / "last")["model"]
    assert model["lm_head.weight"] is model["embed_tokens.weight"]
    state = json.loads((tmp_path / "last" / "state.json").read_text())
    assert state["sections"]["model"]["dict"]["lm_head.weight"] == {"tensor": "embed_tokens.weight"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, "seed: the checkpoint at .* has 0, this trainer 1"),
        ({"grad_accumulation": 2}, "grad_accumulation: the checkpoint at .* has 1, this trainer 2"),
        ({"methods": [Stateful()]}, r"methods: the saved run had \[\], this one has \['stateful'\]"),
        ({"model": Llama(LlamaConfig.preset("tiny"))}, "model: embed_tokens.weight is"),
        ({"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}, "optimizer: .* has 'AdamW'.* 'SGD'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    make_trainer().save(tmp_path / "last")
    other = make_trainer(**settings)
    with pytest.raises(ValueError, match=message):
        other.resume(tmp_path / "last")


def test_a_checkpoint_of_other_data_is_refused(
    make_trainer: MakeTrainer, make_stream: Callable[..., BatchStream], tmp_path: Path
) -> None:
    make_trainer().save(tmp_path / "last")
    with pytest.raises(ValueError, match="data: the saved position belongs to seed=0, this stream has 3"):
        make_trainer(data=make_stream(seed=3)).resume(tmp_path / "last")


def test_a_damaged_checkpoint_changes_nothing(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.fit(1)
    trainer.save(tmp_path / "last")
    file = tmp_path / "last" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    fresh = make_trainer()
    before = everything(fresh)
    with pytest.raises(ValueError, match=r"optimizer.safetensors is damaged"):
        fresh.resume(tmp_path / "last")
    assert fresh.step == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(fresh).items())
