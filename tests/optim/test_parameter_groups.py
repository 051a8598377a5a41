"""Which parameters of a model are hidden matrices."""

from __future__ import annotations

import pytest
from torch import nn

from narrowgauge.optim.parameter_groups import galore_groups, muon_groups, split_matrices


def model(tied: bool = False) -> nn.Module:
    net = nn.ModuleDict(
        {
            "embed": nn.Embedding(20, 8),
            "block": nn.ModuleDict({"fc1": nn.Linear(8, 32), "fc2": nn.Linear(32, 8), "norm": nn.LayerNorm(8)}),
            "conv": nn.Conv2d(3, 8, 3),
            "lm_head": nn.Linear(8, 20, bias=False),
        }
    )
    if tied:
        net["lm_head"].weight = net["embed"].weight
    return net


def names(pairs: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in pairs]


@pytest.mark.parametrize("tied", [False, True])
def test_hidden_matrices_are_neither_embedding_nor_head(tied: bool) -> None:
    matrices, rest = split_matrices(model(tied))
    assert names(matrices) == ["block.fc1.weight", "block.fc2.weight"]
    vectors = ["block.fc1.bias", "block.fc2.bias", "block.norm.weight", "block.norm.bias"]
    assert names(rest) == ["embed.weight", *vectors, "conv.weight", "conv.bias"] + ["lm_head.weight"] * (not tied)


def test_frozen_parameters_are_left_out() -> None:
    net = model()
    net["block"]["fc1"].weight.requires_grad_(False)
    matrices, rest = split_matrices(net)
    assert names(matrices) == ["block.fc2.weight"]
    assert "block.fc1.weight" not in names(rest)


def test_muon_groups_name_the_algorithm_and_can_flatten_convolutions() -> None:
    first, second = muon_groups(model())
    assert (first["algorithm"], second["algorithm"]) == ("muon", "adamw")
    assert "conv.weight" in names(second["params"])
    _, kernels, rest = muon_groups(model(), flatten=True)
    assert kernels == {"params": kernels["params"], "algorithm": "muon", "matrices": "flatten"}
    assert names(kernels["params"]) == ["conv.weight"]
    assert "conv.weight" not in names(rest["params"])


def test_galore_groups_leave_small_matrices_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8))
    first, second = galore_groups(net, 8, head=())
    assert (names(first["params"]), first["rank"]) == (["0.weight"], 8)
    assert (names(second["params"]), second["rank"]) == (["1.weight", "0.bias", "1.bias"], None)


def test_a_head_that_is_not_found_is_an_error() -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8))
    with pytest.raises(ValueError, match=r"head: no parameter is called lm_head.weight.*head=\(\)"):
        split_matrices(net)
    with pytest.raises(ValueError, match=r"head: 'final\.\*' matches no parameter"):
        split_matrices(net, "final.*")
    assert names(split_matrices(net, "1.weight")[0]) == ["0.weight"]
    assert names(split_matrices(net, ())[0]) == ["0.weight", "1.weight"]
