from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from narrowgauge.methods.spes import (
    Ownership,
    Traffic,
    exchange_all,
    exchange_experts,
    exchange_with_group,
    parameter_experts,
    traffic,
)
from narrowgauge.train.moe import MoEConfig, MoELlama

SMALL = MoEConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=8, max_seq_len=16, num_experts=4)


def nodes(count: int) -> list[nn.Module]:
    return [MoELlama(SMALL, seed=seed) for seed in range(count)]


def copies(models: list[nn.Module]) -> list[dict[str, torch.Tensor]]:
    return [{name: p.detach().clone() for name, p in model.named_parameters()} for model in models]


@pytest.mark.parametrize("count", [2, 4])
def test_shared_weights_become_the_mean_and_experts_their_owners_copy(count: int) -> None:
    models, ownership = nodes(count), Ownership(4, count)
    before = copies(models)
    exchange_experts(models, ownership)
    after = copies(models)
    for name, expert in parameter_experts(models[0]).items():
        for node in after:
            assert torch.equal(node[name], after[0][name])
        if expert is None:
            mean = torch.stack([node[name].double() for node in before]).mean(0).float()
            torch.testing.assert_close(after[0][name], mean)
        else:
            assert torch.equal(after[0][name], before[ownership.owner(expert)][name])


def test_full_averaging_makes_everything_the_mean() -> None:
    models = nodes(2)
    before = copies(models)
    exchange_all(models)
    for name, value in copies(models)[1].items():
        torch.testing.assert_close(value, (before[0][name] + before[1][name]) / 2)


@pytest.mark.parametrize("all_experts", [False, True])
def test_one_node_keeps_its_bits(all_experts: bool) -> None:
    models = nodes(1)
    before = copies(models)
    if all_experts:
        exchange_all(models)
    else:
        exchange_experts(models, Ownership(4, 1))
    assert all(torch.equal(value, before[0][name]) for name, value in copies(models)[0].items())


def test_the_mean_of_bfloat16_weights_is_taken_in_float32() -> None:
    models = [model.bfloat16() for model in nodes(4)]
    for model, value in zip(models, (1.0, 1.0, 1.0, 1.0078125), strict=True):
        nn.init.constant_(model.norm.weight, value)
    nn.init.constant_(models[3].norm.weight, 1.03125)
    exchange_experts(models, Ownership(4, 4))
    assert (models[0].norm.weight == 1.0078125).all()


def test_traffic_counts_the_bytes_of_what_travels() -> None:
    model = MoELlama(SMALL, seed=0)
    expert = 4 * sum(p.numel() for p in model.layers[0].mlp.experts[0].parameters()) * SMALL.num_layers
    shared = 4 * sum(p.numel() for p in model.parameters()) - 4 * expert
    found = traffic(model, Ownership(4, 2))
    assert found == Traffic(upload=shared + 2 * expert, download=shared + 2 * expert)
    assert traffic(model, Ownership(4, 4)) == Traffic(upload=shared + expert, download=shared + 3 * expert)
    everything = traffic(model, Ownership(4, 2), all_experts=True)
    assert everything == Traffic(shared + 4 * expert, shared + 4 * expert)
    assert found.total < everything.total


def test_another_number_of_models_is_refused() -> None:
    with pytest.raises(ValueError, match="models: expected one for each of 4 nodes, got 2"):
        exchange_experts(nodes(2), Ownership(4, 4))


def _node(rank: int, path: str, models: list[nn.Module]) -> None:
    store = dist.FileStore(path, len(models))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(models))
    try:
        exchange_with_group(models[rank])
        torch.save(models[rank].state_dict(), f"{path}.{rank}")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_processes_exchange_as_models_in_one_process_do(tmp_path: Path) -> None:
    models, path = nodes(2), str(tmp_path / "store")
    torch.multiprocessing.spawn(_node, args=(path, nodes(2)), nprocs=2)
    exchange_experts(models, Ownership(4, 2))
    for rank, model in enumerate(models):
        saved = torch.load(f"{path}.{rank}", weights_only=True)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(saved[name], value)
    first, second = (torch.load(f"{path}.{rank}", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
