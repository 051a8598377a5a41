import pytest
import torch

from narrowgauge.methods.spes import Merging, merge_experts, merged, nearest, similarity
from narrowgauge.train.moe import MoEConfig, MoELlama, expert_tensors, moe_layers, set_expert_tensors

SMALL = MoEConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=8, max_seq_len=16, num_experts=6)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def spread(tensors: torch.Tensor) -> float:
    return float((tensors - tensors.mean(0)).square().sum())


def test_similarity_is_the_cosine_of_the_flattened_matrices() -> None:
    matrices = random(5, 3, 4)
    cosines = similarity(matrices)
    for i in range(5):
        for j in range(5):
            a, b = matrices[i].flatten(), matrices[j].flatten()
            assert cosines[i, j].item() == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-6)


def test_the_nearest_are_the_most_similar_others() -> None:
    cosines = torch.tensor([[1.0, 0.9, -0.5], [0.9, 1.0, 0.2], [-0.5, 0.2, 1.0]])
    assert nearest(cosines, 1).tolist() == [[1], [0], [1]]  # 2 is nearest to nobody, 1 is to both: not mutual
    assert sorted(nearest(cosines, 2)[0].tolist()) == [1, 2]
    assert cosines[0, 0] == 1
    with pytest.raises(ValueError, match=r"neighbours: expected 1 … 2 for 3 experts, got 3"):
        nearest(cosines, 3)


def test_all_experts_move_at_once() -> None:
    experts = torch.tensor([[0.0], [1.0], [4.0]])
    near = torch.tensor([[1], [0], [1]])
    assert merged(experts, near, 0.5).tolist() == [[0.5], [0.5], [2.5]]  # one after the other: the last would be 2.25


def test_all_matrices_of_an_expert_move_towards_the_neighbours_of_its_first() -> None:
    model = MoELlama(SMALL, seed=0)
    before = [expert_tensors(layer) for _, layer in moe_layers(model)]
    merge_experts(model, 0.3, neighbours=2)
    for old, (_, layer) in zip(before, moe_layers(model), strict=True):
        near = nearest(similarity(old["gate_proj.weight"]), 2)
        for name, value in expert_tensors(layer).items():
            expected = torch.stack(
                [0.7 * old[name][e] + 0.3 * sum(old[name][j] for j in near[e]) / 2 for e in range(6)]
            )
            torch.testing.assert_close(value, expected)


def test_the_order_of_the_experts_does_not_matter() -> None:
    order = [3, 1, 5, 0, 4, 2]
    model, mixed = MoELlama(SMALL, seed=0), MoELlama(SMALL, seed=0)
    for _, layer in moe_layers(mixed):
        set_expert_tensors(layer, {name: tensor[order] for name, tensor in expert_tensors(layer).items()})
    for each in (model, mixed):
        merge_experts(each, 0.5, neighbours=2)
    for (_, layer), (_, other) in zip(moe_layers(model), moe_layers(mixed), strict=True):
        for name, tensor in expert_tensors(layer).items():
            torch.testing.assert_close(expert_tensors(other)[name], tensor[order])


def test_alpha_zero_and_equal_experts_are_fixed_points() -> None:
    model = MoELlama(SMALL, seed=0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    merge_experts(model, 0.0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for _, layer in moe_layers(model):
        set_expert_tensors(layer, {n: t[:1].expand_as(t) for n, t in expert_tensors(layer).items()})
    before = {name: p.clone() for name, p in model.named_parameters()}
    merge_experts(model, 0.5, neighbours=4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name])


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_merging_shrinks_the_spread(alpha: float) -> None:
    model = MoELlama(SMALL, seed=0)
    before = [expert_tensors(layer)["gate_proj.weight"] for _, layer in moe_layers(model)]
    merge_experts(model, alpha, neighbours=4)
    for old, (_, layer) in zip(before, moe_layers(model), strict=True):
        assert spread(expert_tensors(layer)["gate_proj.weight"]) < spread(old)


def test_alpha_falls_linearly_to_zero_and_merging_stops() -> None:
    merging = Merging(rate=0.1, until=100, every=20)
    assert [merging.alpha(step) for step in (0, 50, 100, 120)] == pytest.approx([0.1, 0.05, 0.0, 0.0])
    assert [step for step in range(200) if merging.is_due(step)] == [20, 40, 60, 80]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate": 1.5}, r"rate: expected a number in \[0, 1\], got 1\.5"),
        ({"until": 0}, "until: expected at least 1, got 0"),
        ({"every": 0}, "every: expected"),
        ({"neighbours": 0}, "neighbours: expected"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Merging(**settings)  # type: ignore[arg-type]
