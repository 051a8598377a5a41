import dataclasses

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.methods.multilevel import coalesce, coalesced_config, decoalesce, interpolate_
from narrowgauge.nn import convert
from narrowgauge.train import Llama, LlamaConfig, cross_entropy

BIG = LlamaConfig(dim=32, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=16)
SMALL = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=24, max_seq_len=16)


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(seed))


def rough(config: LlamaConfig, seed: int = 0) -> Llama:
    """A model with norms that are not 1, and matrices large enough to matter."""
    model, generator = Llama(config, seed=seed), torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(name == twin and torch.equal(p, q) for (name, p), (twin, q) in pairs)


def gradients(model: Llama) -> dict[str, Tensor]:
    model.zero_grad()
    cross_entropy(model, {"input_ids": tokens(), "labels": tokens(1)}).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_sizes_and_parameters_are_those_of_half_the_model() -> None:
    small = coalesce(rough(BIG))
    assert small.config == SMALL
    assert small.num_parameters() == Llama(SMALL).num_parameters()
    assert small.config.head_dim == BIG.head_dim


@pytest.mark.parametrize("depth", ["adjacent", "halves", "kept"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_coalescing_takes_decoalescing_back_to_the_bit(depth: str, tied: bool, kv_heads: int) -> None:
    config = dataclasses.replace(BIG, tie_embeddings=tied, num_kv_heads=kv_heads)
    small = rough(coalesced_config(config, depth=depth))
    big = decoalesce(small, config, depth=depth)
    assert big.config == config
    assert same(coalesce(big, depth=depth), small)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_width_alone_keeps_the_logits(tied: bool, kv_heads: int) -> None:
    config = dataclasses.replace(BIG, tie_embeddings=tied, num_kv_heads=kv_heads)
    small = rough(coalesced_config(config, depth="kept"), seed=3)
    big = decoalesce(small, config, depth="kept")
    torch.testing.assert_close(big(tokens()), small(tokens()), rtol=1e-4, atol=2e-5)


def test_depth_alone_copies_layers_to_both_places() -> None:
    config = dataclasses.replace(BIG, num_layers=2)
    small = rough(config)
    for depth, places in (("adjacent", [0, 0, 1, 1]), ("halves", [0, 1, 0, 1])):
        big = decoalesce(small, BIG, depth=depth)
        assert all(same(layer, small.layers[index]) for layer, index in zip(big.layers, places, strict=True))
        assert same(coalesce(big, width=False, depth=depth), small)


def test_depth_is_the_mean_of_two_layers() -> None:
    big = rough(BIG)
    small = coalesce(big, width=False, depth="halves")
    expected = (big.layers[1].mlp.up_proj.weight + big.layers[3].mlp.up_proj.weight) / 2
    assert torch.equal(small.layers[1].mlp.up_proj.weight, expected)
    big.layers[1].load_state_dict(big.layers[0].state_dict())
    assert same(coalesce(big, width=False).layers[0], big.layers[0])


def test_query_heads_stay_with_their_key_heads() -> None:
    """Each head's queries and keys get a mark; after pairing, a query head still reads keys of its own mark."""
    config = dataclasses.replace(BIG, num_heads=8, num_kv_heads=4, dim=64)
    big = rough(config)
    with torch.no_grad():
        for layer in big.layers:
            for name, heads in (("k_proj", 4), ("q_proj", 8)):
                marks = torch.arange(4.0).repeat_interleave(heads // 4 * config.head_dim)
                getattr(layer.self_attn, name).weight.copy_(marks[:, None].expand(-1, 64))
    small = coalesce(big)
    q_HD = small.layers[0].self_attn.q_proj.weight[:, 0].unflatten(0, (4, -1))
    k_KD = small.layers[0].self_attn.k_proj.weight[:, 0].unflatten(0, (2, -1))
    assert k_KD[:, 0].tolist() == [(0 + 2) / 2 * 2, (1 + 3) / 2 * 2]  # a mean of outputs, a sum of two inputs
    assert torch.equal(q_HD, k_KD.repeat_interleave(2, dim=0))


def test_ratio_0_changes_nothing_and_1_is_the_other_model() -> None:
    large, other = rough(BIG), rough(BIG, seed=1)
    interpolate_(large, other, 0.0)
    assert same(large, rough(BIG))
    interpolate_(large, other, 1.0)
    assert same(large, other)


def test_ratio_between_is_between() -> None:
    large, other = rough(BIG), rough(BIG, seed=1)
    interpolate_(large, other, 0.25)
    expected = 0.75 * rough(BIG).norm.weight + 0.25 * other.norm.weight
    torch.testing.assert_close(large.norm.weight, expected)


def test_twins_have_equal_gradients_until_interpolation_breaks_the_symmetry() -> None:
    big = decoalesce(rough(SMALL), BIG)
    twins = gradients(big)["layers.0.mlp.up_proj.weight"].chunk(2)
    torch.testing.assert_close(twins[0], twins[1], rtol=1e-3, atol=1e-6)
    large = rough(BIG, seed=1)
    interpolate_(large, big, 0.5)
    twins = gradients(large)["layers.0.mlp.up_proj.weight"].chunk(2)
    assert (twins[0] - twins[1]).norm() > 0.1 * twins[0].norm()


def test_dtype_stays_and_a_recipe_does_not() -> None:
    model = rough(BIG)
    expected = coalesce(model)
    assert same(coalesce(convert(model, "fp8_row")), expected)
    assert coalesce(rough(BIG).bfloat16()).norm.weight.dtype == torch.bfloat16


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers: expected an even number to pair, got 3"):
        coalesce(Llama(dataclasses.replace(BIG, num_layers=3)))
    with pytest.raises(ValueError, match="num_kv_heads: expected an even number to pair, got 3"):
        coalesced_config(dataclasses.replace(BIG, dim=48, num_heads=6, num_kv_heads=3))
    with pytest.raises(ValueError, match="width, depth: expected at least one of the two"):
        coalesced_config(BIG, width=False, depth="kept")
    with pytest.raises(ValueError, match=r"config: LlamaConfig.* is not half of"):
        decoalesce(rough(SMALL), dataclasses.replace(BIG, ffn_dim=96))
    with pytest.raises(ValueError, match=r"ratio: expected a number in \[0, 1\], got 1.5"):
        interpolate_(rough(BIG), rough(BIG), 1.5)
    with pytest.raises(ValueError, match="other: expected parameters of the same names and shapes"):
        interpolate_(rough(BIG), rough(SMALL), 0.5)
