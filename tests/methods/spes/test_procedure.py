from collections.abc import Callable

import pytest
import torch
from torch import nn

from narrowgauge.methods.spes import SPES, Merging, parameter_experts
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, BatchStream, ByteCorpus, Trainer
from narrowgauge.train.method import ParameterGroup
from narrowgauge.train.moe import MoEConfig, MoELlama
from narrowgauge.train.moe_loss import RouterLoss

SMALL = MoEConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=8, max_seq_len=16, num_experts=4)
CORPUS = ByteCorpus(max_bytes=100_000)


def build(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.5)


def build_log8(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return AdamW(groups, lr=1e-2, weight_decay=0.5, state="log8")


def stream(seed: int) -> BatchStream:
    return BatchStream(CORPUS, batch_size=4, seq_len=16, seed=seed, validation_batches=1)


def nodes(spes: SPES, steps: int, *, low: bool = False) -> list[Trainer]:
    trainers = []
    for node in range(spes.nodes):
        model: nn.Module = MoELlama(SMALL, seed=0)
        model = convert(model, "fp8_row") if low else model
        loss = spes.prepare(model, node, steps)
        factory: Callable[[list[ParameterGroup]], torch.optim.Optimizer] = build_log8 if low else build
        trainers.append(Trainer(model, stream(node), factory, methods=[loss]))
    return trainers


def values(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_it_is_registered() -> None:
    assert METHODS["spes"] is SPES


@pytest.mark.parametrize("exchange", ["experts", "all", "none"])
def test_one_node_is_ordinary_training_to_the_bit(exchange: str) -> None:
    spes = SPES(nodes=1, every=2, exchange=exchange)
    trainers = nodes(spes, 5)
    spes.train(trainers, 5)
    plain = Trainer(MoELlama(SMALL, seed=0), stream(0), build, methods=[RouterLoss()])
    plain.fit(5)
    for p, q in zip(plain.model.parameters(), trainers[0].model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("low", [False, True])
def test_foreign_experts_keep_their_bits_during_local_steps_and_no_state_is_held(low: bool) -> None:
    spes = SPES(nodes=2, every=10)
    trainers = nodes(spes, 10, low=low)
    before = values(trainers[1])
    trainers[1].fit(3)
    after = values(trainers[1])
    experts = parameter_experts(trainers[1].model)
    for name, expert in experts.items():
        assert torch.equal(after[name], before[name]) == (expert in (0, 1)), name
    held = {id(p) for group in trainers[1].optimizer.param_groups for p in group["params"]}
    for (name, expert), parameter in zip(experts.items(), trainers[1].model.parameters(), strict=True):
        assert (id(parameter) in held) == (expert not in (0, 1)), name


@pytest.mark.parametrize("exchange", ["experts", "all"])
def test_after_training_all_nodes_are_equal(exchange: str) -> None:
    spes = SPES(nodes=2, every=2, exchange=exchange)
    trainers = nodes(spes, 5)
    assert spes.train(trainers, 5) == 3
    first, second = (values(trainer) for trainer in trainers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert trainers[0].step == 5


def test_without_exchange_nodes_go_their_own_ways() -> None:
    spes = SPES(nodes=2, every=2, exchange="none")
    trainers = nodes(spes, 4)
    assert spes.train(trainers, 4) == 0
    first, second = (values(trainer) for trainer in trainers)
    assert not torch.equal(first["norm.weight"], second["norm.weight"])
    assert all(p.requires_grad for p in trainers[0].model.parameters())


def test_merging_happens_between_the_rounds_and_keeps_the_nodes_equal() -> None:
    plain, merging = SPES(nodes=2, every=2), SPES(nodes=2, every=2, merging=Merging(0.5, 4, 2, neighbours=2))
    ends = []
    for spes in (plain, merging):
        trainers = nodes(spes, 4)
        spes.train(trainers, 4)
        first, second = (values(trainer) for trainer in trainers)
        assert all(torch.equal(first[name], second[name]) for name in first)
        ends.append(first)
    assert not torch.equal(
        ends[0]["layers.0.mlp.experts.0.up_proj.weight"], ends[1]["layers.0.mlp.experts.0.up_proj.weight"]
    )


def test_clipping_counts_the_own_gradients_alone() -> None:
    spes = SPES(nodes=4, every=2)
    trainer = nodes(spes, 4)[0]
    norm = trainer.fit(1)["grad_norm"]
    whole = nodes(SPES(nodes=4, every=2, exchange="all"), 4)[0].fit(1)["grad_norm"]
    assert norm < whole


def test_a_node_is_steered_during_a_fifth_of_the_steps_where_asked_for() -> None:
    loss = SPES(nodes=2, steering=0.5).prepare(MoELlama(SMALL, seed=0), 1, 50)
    assert (loss.node, loss.start, loss.ramp) == (1, 0.5, 10)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"nodes": 0}, "nodes: expected at least 1, got 0"),
        ({"every": 0}, "every: expected at least 1, got 0"),
        ({"steering": 0.0}, r"steering: expected a number in \(0, 1\], got 0\.0"),
        ({"exchange": "some"}, "exchange: expected one of experts, all, none, got 'some'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SPES(**settings)  # type: ignore[arg-type]


def test_trainers_that_do_not_fit_are_refused() -> None:
    spes = SPES(nodes=2)
    trainers = nodes(spes, 4)
    with pytest.raises(ValueError, match="trainers: expected one for each of 2 nodes, got 1"):
        spes.train(trainers[:1], 4)
    trainers[0].fit(1)
    with pytest.raises(ValueError, match=r"trainers: expected equal steps, got \[1, 0\]"):
        spes.train(trainers, 4)
