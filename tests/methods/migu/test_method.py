from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowgauge.methods.migu import MIGU
from narrowgauge.methods.migu.method import num_kept
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
Build = Callable[[nn.Module], torch.optim.Optimizer]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def log8(model: nn.Module) -> torch.optim.Optimizer:
    return AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, state="log8")


def trainer_with(*methods: MIGU, build: Build = adamw, recipe: str | None = None, accumulation: int = 1) -> Trainer:
    model: nn.Module = Llama(SMALL, seed=0)
    if recipe is not None:
        model = convert(model, recipe)
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=4, seq_len=16, validation_batches=2)
    return Trainer(model, data, build(model), methods=methods, grad_accumulation=accumulation)


def values(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def changed_rows(before: torch.Tensor, after: torch.Tensor) -> int:
    return int((before != after).flatten(1).any(1).sum())


def assert_same(a: Trainer, b: Trainer) -> None:
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_it_is_registered() -> None:
    assert METHODS["migu"] is MIGU


@pytest.mark.parametrize(
    ("units", "threshold", "expected"),
    [(10, 0.7, 3), (64, 0.7, 20), (1, 0.7, 1), (16, 0.0, 16), (3, 0.1, 3), (100, 0.29, 71), (5, 0.99, 1)],
)
def test_the_number_of_trained_units_is_the_ceiling(units: int, threshold: float, expected: int) -> None:
    assert num_kept(units, threshold) == expected


@pytest.mark.parametrize("build", [sgd, momentum, adamw, log8])
@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_exactly_the_strongest_rows_move_and_the_others_keep_their_bits(build: Build, recipe: str | None) -> None:
    method = MIGU(threshold=0.7)
    trainer = trainer_with(method, build=build, recipe=recipe)
    for step in range(1, 4):
        before = values(trainer)
        trainer.fit(step)
        after = values(trainer)
        kept = {name: kept for rows, kept in method._kept for name in rows.parameters}
        assert len(kept) == 7
        for name, rows in kept.items():
            assert int(rows.sum()) == num_kept(rows.numel(), 0.7)
            assert torch.equal(before[name][~rows], after[name][~rows])
            assert 0 < changed_rows(before[name], after[name]) <= int(rows.sum())
        assert not torch.equal(before["norm.weight"], after["norm.weight"])
        assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


@pytest.mark.parametrize("choice", ["largest", "smallest"])
def test_the_kept_units_are_those_with_the_largest_or_smallest_sums(choice: str) -> None:
    method = MIGU(threshold=0.6, choice=choice)
    trainer_with(method).fit(1)
    for rows, kept in method._kept:
        assert rows.total is not None
        order = rows.total.argsort(descending=choice == "largest")
        assert set(order[: int(kept.sum())].tolist()) == set(kept.nonzero().flatten().tolist())


def test_random_units_are_other_ones_each_step_and_the_same_for_a_seed() -> None:
    chosen = []
    for seed in (0, 0, 1):
        method = MIGU(choice="random", seed=seed)
        trainer = trainer_with(method)
        steps = []
        for step in (1, 2):
            trainer.fit(step)
            steps.append(torch.cat([kept for _, kept in method._kept]))
        chosen.append(steps)
    assert not torch.equal(chosen[0][0], chosen[0][1])
    assert torch.equal(chosen[0][0], chosen[1][0])
    assert not torch.equal(chosen[0][0], chosen[2][0])


def test_tied_units_are_all_trained() -> None:
    layer = nn.Linear(2, 6, bias=False)
    nn.init.ones_(layer.weight)
    method = MIGU(threshold=0.5, skip=())
    method.attach(layer)
    layer(torch.ones(3, 2)).sum().backward()
    method.gradient(layer, 0)
    assert (layer.weight.grad == 3).all()


def test_biases_are_masked_with_their_rows() -> None:
    layer = nn.Linear(2, 4)
    method = MIGU(threshold=0.5, skip=())
    method.attach(layer)
    layer(torch.randn(3, 2, generator=torch.Generator().manual_seed(0))).sum().backward()
    method.gradient(layer, 0)
    assert layer.bias.grad is not None
    assert int((layer.bias.grad != 0).sum()) == 2
    assert torch.equal(layer.bias.grad != 0, (layer.weight.grad != 0).all(1))


def test_a_threshold_of_zero_changes_nothing() -> None:
    plain, method = trainer_with(), trainer_with(MIGU(threshold=0.0))
    plain.fit(3)
    method.fit(3)
    assert_same(plain, method)


def test_the_first_task_is_trained_as_usual() -> None:
    plain, method = trainer_with(), trainer_with(MIGU(begin=3))
    plain.fit(3)
    method.fit(3)
    assert_same(plain, method)
    plain.fit(4)
    method.fit(4)
    assert not torch.equal(plain.model.layers[0].mlp.up_proj.weight, method.model.layers[0].mlp.up_proj.weight)


def test_the_gradients_are_masked_before_they_are_clipped() -> None:
    assert trainer_with(MIGU(threshold=0.9)).fit(1)["grad_norm"] < trainer_with().fit(1)["grad_norm"]


def test_after_its_removal_training_is_ordinary() -> None:
    method = MIGU()
    plain, trainer = trainer_with(), trainer_with(method)
    method.remove()
    plain.fit(2)
    trainer.fit(2)
    assert_same(plain, trainer)
    assert not any(module._forward_hooks for module in trainer.model.modules())


@pytest.mark.parametrize("choice", ["largest", "random"])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, choice: str) -> None:
    straight, first, second = (
        trainer_with(MIGU(begin=1, choice=choice), build=log8, recipe="fp8_row", accumulation=2) for _ in range(3)
    )
    straight.fit(5)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(5)
    assert_same(straight, second)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"threshold": 1.0}, r"threshold: expected a share in \[0, 1\)"),
        ({"threshold": float("nan")}, "threshold: expected"),
        ({"begin": -1}, "begin: expected a step"),
        ({"choice": "weakest"}, "choice: expected one of largest, smallest, random, got 'weakest'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MIGU(**settings)  # type: ignore[arg-type]
