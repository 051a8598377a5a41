import pytest
import torch

from narrowgauge.methods.spes import Ownership, keep_to_own, parameter_experts
from narrowgauge.train.moe import MoEConfig, MoELlama

SMALL = MoEConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=8, max_seq_len=16, num_experts=4)


@pytest.mark.parametrize(("experts", "nodes"), [(8, 4), (8, 1), (6, 6), (4, 2)])
def test_it_is_a_partition(experts: int, nodes: int) -> None:
    ownership = Ownership(experts, nodes)
    owned = [expert for node in range(nodes) for expert in ownership.experts(node)]
    assert owned == list(range(experts))
    for node in range(nodes):
        assert {ownership.owner(expert) for expert in ownership.experts(node)} == {node}
        assert len(ownership.experts(node)) == experts // nodes


def test_parameters_are_shared_or_of_one_expert() -> None:
    found = parameter_experts(MoELlama(SMALL, seed=0))
    assert found["layers.1.mlp.experts.3.up_proj.weight"] == 3
    assert found["layers.1.mlp.router.weight"] is None
    assert found["embed_tokens.weight"] is None
    assert sum(expert is not None for expert in found.values()) == 2 * 4 * 3


def test_a_node_trains_the_shared_weights_and_its_experts_alone() -> None:
    model = MoELlama(SMALL, seed=0)
    keep_to_own(model, Ownership(4, 2), 1)
    for (name, expert), parameter in zip(parameter_experts(model).items(), model.parameters(), strict=True):
        assert parameter.requires_grad == (expert in (None, 2, 3)), name


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="nodes: expected a divisor of the 8 experts, at least 1, got 3"):
        Ownership(8, 3)
    with pytest.raises(ValueError, match="node: expected 0 … 3, got 4"):
        Ownership(8, 4).experts(4)
    with pytest.raises(ValueError, match="expert: expected 0 … 7, got 8"):
        Ownership(8, 4).owner(8)
    model = MoELlama(SMALL, seed=0)
    model.layers[0].mlp.experts.append(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"model: expected the same number of experts .* got \[4, 5\]"):
        Ownership.of(model, 2)
