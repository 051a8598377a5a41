import copy
import math

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.blocks import (
    Attention,
    Block,
    apply_rope,
    causal_attention,
    full_attention,
    initialise,
    linear,
    rope_tables,
    uninitialised,
)
from narrowgauge.train.generate import generate
from narrowgauge.train.kv_cache import LayerCache

CONFIG = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=24)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rope_scores_depend_only_on_the_distance() -> None:
    cos, sin = rope_tables(64, 8, theta=100.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator).expand(64, 8) for _ in range(2))
    scores = apply_rope(q, cos, sin) @ apply_rope(k, cos, sin).T
    for distance in (0, 1, 5, 40):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert scores.diagonal(0)[0] != scores.diagonal(5)[0]


def test_rope_keeps_lengths_and_leaves_position_zero() -> None:
    cos, sin = rope_tables(16, 8, theta=10000.0)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    turned = apply_rope(x, cos, sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])


def test_rope_with_positions_of_each_row_turns_each_row_by_its_own() -> None:
    cos, sin = rope_tables(16, 8, theta=100.0)
    x, positions = normal(2, 3, 4, 8), torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    turned = apply_rope(x, cos[positions][:, None], sin[positions][:, None])
    for row, first in enumerate((0, 7)):
        assert torch.equal(turned[row], apply_rope(x[row], cos[first : first + 4], sin[first : first + 4]))


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Explicit softmax in float64, key heads repeated."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q.double() @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_attention_reads_what_it_may(num_kv_heads: int) -> None:
    q, k, v = normal(2, 4, 6, 8), normal(2, num_kv_heads, 6, 8, seed=1), normal(2, num_kv_heads, 6, 8, seed=2)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    everything = torch.ones(6, 6, dtype=torch.bool)
    some = everything.clone()
    some[:, 3] = False
    for out, mask in (
        (causal_attention(q, k, v), causal),
        (full_attention(q, k, v), everything),
        (causal_attention(q, k, v, some), some),
        (full_attention(q, k, v, some), some),
    ):
        torch.testing.assert_close(out.double(), by_definition(q, k, v, mask), rtol=1e-5, atol=1e-5)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_definition(q, k, v, torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()).to(q.dtype)


def first_key_only(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return v[:, :, :1].repeat_interleave(q.shape[1] // v.shape[1], dim=1).expand_as(q)


class Counting(nn.Module):
    """An attention with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return causal_attention(q * self.temperature, k, v, mask)


def test_another_attention_can_be_put_in_and_sees_turned_heads() -> None:
    model, input_ids = Llama(CONFIG), torch.arange(20)[None]
    expected = model(input_ids)
    for layer in model.layers:
        layer.self_attn.attend = by_hand
    torch.testing.assert_close(model(input_ids), expected, rtol=1e-5, atol=1e-5)
    assert copy.deepcopy(model).layers[0].self_attn.attend is by_hand
    for layer in model.layers:
        layer.self_attn.attend = first_key_only
    assert not torch.allclose(model(input_ids), expected, rtol=1e-3, atol=1e-3)


def test_another_attention_that_takes_a_mask_serves_a_cache_and_one_that_does_not_serves_without() -> None:
    model = Llama(CONFIG)
    model.layers[1].self_attn.attend = first_key_only
    prompts = [[1, 2, 3], [4]]
    completions = [generate(model, prompts, max_new_tokens=5, eos=None, use_cache=cached) for cached in (True, False)]
    assert completions[0] == generate(model, prompts[:1], max_new_tokens=5, eos=None) + completions[0][1:]
    model.layers[1].self_attn.attend = by_hand
    with pytest.raises(TypeError, match="positional argument"):
        generate(model, prompts, max_new_tokens=5, eos=None)
    plain = generate(Llama(CONFIG), prompts, max_new_tokens=5, eos=None)
    assert generate(model, prompts, max_new_tokens=5, eos=None, use_cache=False) == plain


def test_an_attention_may_be_a_module_whose_weights_are_trained() -> None:
    model = Llama(CONFIG)
    expected = model(torch.arange(20)[None])
    model.layers[0].self_attn.attend = Counting()
    assert torch.equal(model(torch.arange(20)[None]), expected)
    model(torch.arange(20)[None]).square().mean().backward()
    assert model.layers[0].self_attn.attend.temperature.grad is not None
    assert "layers.0.self_attn.attend.temperature" in dict(model.named_parameters())


def test_an_attention_with_a_cache_needs_no_earlier_input() -> None:
    layer, x, cache = Attention(CONFIG), normal(1, 6, 32), LayerCache(6)
    initialise(layer, 1, torch.Generator().manual_seed(0))
    cos, sin = rope_tables(6, 8, 100.0)
    with torch.no_grad():
        whole = layer(x, cos, sin)
        layer(x[:, :5], cos[:5], sin[:5], cache=cache)
        last = layer(x[:, 5:], cos[5:], sin[5:], torch.ones(1, 6, dtype=torch.bool), cache)
    torch.testing.assert_close(last, whole[:, 5:])


def test_layers_are_made_without_a_draw_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    assert linear(3, 5).weight.shape == (5, 3)
    assert uninitialised(nn.Embedding, 7, 2).weight.device == torch.device("cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_are_made_on_the_default_device() -> None:
    with torch.device("meta"):
        block = Block(CONFIG)
    assert all(parameter.is_meta for parameter in block.parameters())
    initialise(block, 4, torch.Generator())
    assert all(parameter.is_meta for parameter in block.parameters())


def test_initial_weights_are_drawn_in_order_and_those_of_residual_writes_are_smaller() -> None:
    block = Block(CONFIG)
    initialise(block, 4, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in block.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            std = 0.01 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert torch.equal(parameter, torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
