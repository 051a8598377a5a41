from pathlib import Path

import pytest
import torch
from torch import nn

from narrowgauge.methods.sgft import LISA
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer

SMALL = LlamaConfig(dim=16, num_layers=4, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
CORPUS = ByteCorpus(max_bytes=100_000)


def trainer_with(*methods: LISA, model: nn.Module | None = None, state: str | None = None) -> Trainer:
    model = model or Llama(SMALL, seed=0)
    data = BatchStream(CORPUS, batch_size=2, seq_len=16, validation_batches=1)
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    optimizer = (
        torch.optim.AdamW(model.parameters(), **settings)
        if state is None
        else AdamW(model.parameters(), state=state, **settings)
    )
    return Trainer(model, data, optimizer, methods=methods)


def blocks(trainer: Trainer) -> list[list[torch.Tensor]]:
    return [[p.detach().clone() for p in block.parameters()] for block in trainer.model.layers]


def changed(before: list[list[torch.Tensor]], after: list[list[torch.Tensor]]) -> set[int]:
    pairs = enumerate(zip(before, after, strict=True))
    return {i for i, (a, b) in pairs if not all(map(torch.equal, a, b))}


@pytest.mark.parametrize("active", [1, 2, 4])
def test_exactly_so_many_blocks_are_active_and_all_of_them_sometime(active: int) -> None:
    lisa = LISA(active=active, every=3, seed=1)
    lisa.attach(Llama(SMALL, seed=0))
    drawn = [lisa.active_blocks(step) for step in range(120)]
    assert all(len(chosen) == active for chosen in drawn)
    assert all(drawn[step] == drawn[step - step % 3] for step in range(120))
    assert set().union(*drawn) == {0, 1, 2, 3}


@pytest.mark.parametrize("state", [None, "fp32", "log8"])
def test_frozen_blocks_do_not_change_though_weights_decay(state: str | None) -> None:
    lisa = LISA(active=2, every=1)
    trainer = trainer_with(lisa, state=state)
    for step in range(4):
        before, head = blocks(trainer), trainer.model.lm_head.weight.detach().clone()
        table = trainer.model.embed_tokens.weight.detach().clone()
        trainer.fit(step + 1)
        assert changed(before, blocks(trainer)) == lisa.active_blocks(step)
        assert not torch.equal(head, trainer.model.lm_head.weight)
        assert not torch.equal(table, trainer.model.embed_tokens.weight)


def test_all_blocks_active_is_ordinary_training() -> None:
    plain, lisa = trainer_with(), trainer_with(LISA(active=4))
    plain.fit(3)
    lisa.fit(3)
    assert all(map(torch.equal, plain.model.parameters(), lisa.model.parameters()))


def test_a_frozen_block_has_no_gradient_and_everything_is_trainable_after_a_step() -> None:
    lisa = LISA(every=1)
    trainer = trainer_with(lisa)
    trainer.fit(1)
    for index, block in enumerate(trainer.model.layers):
        has_gradient = {p.grad is not None for p in block.parameters()}
        assert has_gradient == {index in lisa.active_blocks(0)}
    assert all(p.requires_grad for p in trainer.model.parameters())


@pytest.mark.parametrize("state", [None, "log8"])
def test_the_state_of_a_frozen_block_is_kept_or_dropped(state: str | None) -> None:
    for mode in ("keep", "drop"):
        lisa = LISA(every=2, optimizer_state=mode)
        trainer = trainer_with(lisa, state=state)
        lisa.bind(trainer.optimizer)
        seen: set[int] = set()
        for step in range(8):
            trainer.fit(step + 1)
            seen |= lisa.active_blocks(step)
            expected = seen if mode == "keep" else lisa.active_blocks(step)
            have = {
                index
                for index, block in enumerate(trainer.model.layers)
                if any(trainer.optimizer.state.get(p) for p in block.parameters())
            }
            assert have == expected
        assert len(seen) > 1


def test_dropping_without_an_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match='optimizer_state: "drop" needs the optimizer'):
        trainer_with(LISA(optimizer_state="drop")).fit(1)


@pytest.mark.parametrize("mode", ["keep", "drop"])
def test_a_resumed_run_has_the_same_bits(mode: str, tmp_path: Path) -> None:
    trainers = []
    for _ in range(3):
        lisa = LISA(every=2, optimizer_state=mode)
        trainers.append(trainer_with(lisa))
        lisa.bind(trainers[-1].optimizer)
    straight, first, second = trainers
    straight.fit(6)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(6)
    assert all(map(torch.equal, straight.model.parameters(), second.model.parameters()))


def test_it_composes_with_a_recipe() -> None:
    lisa = LISA(every=1)
    trainer = trainer_with(lisa, model=convert(Llama(SMALL, seed=0), "fp8_row"), state="log8")
    before = blocks(trainer)
    trainer.fit(1)
    assert changed(before, blocks(trainer)) == lisa.active_blocks(0)


def test_parameters_that_were_frozen_before_stay_so() -> None:
    model = Llama(SMALL, seed=0)
    model.layers[0].requires_grad_(False)
    lisa = LISA(active=4)
    data = BatchStream(CORPUS, batch_size=2, seq_len=16, validation_batches=1)
    trainer = Trainer(model, data, lambda groups: torch.optim.SGD(groups, lr=0.1), methods=[lisa])
    trainer.fit(1)
    assert not any(p.requires_grad for p in model.layers[0].parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"active": 0}, "active: expected at least 1, got 0"),
        ({"every": 0}, "every: expected at least 1, got 0"),
        ({"optimizer_state": "lose"}, "optimizer_state: expected one of keep, drop, got 'lose'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LISA(**settings)  # type: ignore[arg-type]


def test_models_without_such_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks: the model has no list of blocks named 'stages'"):
        LISA(blocks="stages").attach(Llama(SMALL, seed=0))
    with pytest.raises(ValueError, match="active: the model has 4 blocks, got 5"):
        LISA(active=5).attach(Llama(SMALL, seed=0))
