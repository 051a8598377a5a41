import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narrowgauge.train import Llama, LlamaConfig
from narrowgauge.train.kv_cache import KVCache

CONFIG = LlamaConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=24)


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def reference_logits(model: Llama, input_ids: Tensor) -> Tensor:
    """The network in float64 from its definition: explicit softmax, loops over heads, complex turns."""
    config, weights = model.config, {name: value.double() for name, value in model.state_dict().items()}
    num_positions, half = input_ids.shape[1], config.head_dim // 2

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight

    def rotate(x: Tensor) -> Tensor:
        angles = torch.tensor(
            [[t * config.rope_theta ** (-2 * i / config.head_dim) for i in range(half)] for t in range(num_positions)],
            dtype=torch.float64,
        )
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag), dim=-1)

    future = torch.ones(num_positions, num_positions, dtype=torch.bool).triu(1)
    x = weights["embed_tokens.weight"][input_ids]
    for index in range(config.num_layers):
        w = {
            name.removeprefix(f"layers.{index}."): value
            for name, value in weights.items()
            if name.startswith(f"layers.{index}.")
        }
        n = norm(x, w["input_layernorm.weight"])
        q, k, v = (n @ w[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        heads = []
        for head in range(config.num_heads):
            group = head // (config.num_heads // config.num_kv_heads)
            take, take_kv = (slice(i * config.head_dim, (i + 1) * config.head_dim) for i in (head, group))
            scores = rotate(q[..., take]) @ rotate(k[..., take_kv]).mT / math.sqrt(config.head_dim)
            heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v[..., take_kv])
        x = x + torch.cat(heads, -1) @ w["self_attn.o_proj.weight"].T
        n = norm(x, w["post_attention_layernorm.weight"])
        gate, up = n @ w["mlp.gate_proj.weight"].T, n @ w["mlp.up_proj.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ w["mlp.down_proj.weight"].T
    logits: Tensor = norm(x, weights["norm.weight"]) @ weights["lm_head.weight"].T
    return logits


def sharpened(config: LlamaConfig, **settings: Any) -> Llama:
    """A model with weights ten times the initial ones: its attention is far from uniform."""
    model = Llama(config, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0) if parameter.ndim > 1 else parameter.add_(0.3)
    return model


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_logits_agree_with_the_definition_in_float64(num_kv_heads: int) -> None:
    model = sharpened(dataclasses.replace(CONFIG, num_kv_heads=num_kv_heads))
    input_ids = tokens(3, 24)
    expected = reference_logits(model, input_ids)
    torch.testing.assert_close(model(input_ids).double(), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 24), (0, 5)])
def test_logits_have_a_value_for_each_position_and_byte(shape: tuple[int, int]) -> None:
    logits = Llama(CONFIG)(tokens(*shape))
    assert logits.shape == (*shape, 256)
    assert logits.dtype == torch.float32


def test_logits_of_a_bfloat16_model_are_float32() -> None:
    assert Llama(CONFIG).to(torch.bfloat16)(tokens(2, 8)).dtype == torch.float32


@pytest.mark.parametrize("position", [1, 11, 23])
def test_a_changed_token_changes_no_earlier_logit_and_its_own(position: int) -> None:
    model = sharpened(CONFIG)
    before = tokens(2, 24)
    after = before.clone()
    after[:, position] = (after[:, position] + 1) % 256
    logits_before, logits_after = model(before), model(after)
    assert torch.equal(logits_before[:, :position], logits_after[:, :position])
    assert not torch.equal(logits_before[:, position], logits_after[:, position])


def test_grouped_attention_equals_full_attention_with_repeated_heads() -> None:
    grouped = sharpened(CONFIG)
    full = Llama(dataclasses.replace(CONFIG, num_kv_heads=4))
    weights = grouped.state_dict()
    for name in list(weights):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            per_head = weights[name].unflatten(0, (2, CONFIG.head_dim))
            weights[name] = per_head.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    input_ids = tokens(2, 24)
    torch.testing.assert_close(grouped(input_ids), full(input_ids), rtol=1e-5, atol=1e-5)


def test_a_tied_head_shares_storage_gradient_and_count() -> None:
    tied = Llama(dataclasses.replace(CONFIG, tie_embeddings=True))
    assert tied.lm_head.weight is tied.embed_tokens.weight
    assert Llama(CONFIG).num_parameters() - tied.num_parameters() == 256 * 32
    assert "lm_head.weight" in tied.state_dict()


def test_num_parameters_is_the_sum_of_the_shapes() -> None:
    attention, mlp, norms = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 48, 2 * 32
    assert Llama(CONFIG).num_parameters() == 2 * (attention + mlp + norms) + 32 + 2 * 256 * 32


def test_parameters_are_named_and_shaped_as_in_llama_checkpoints() -> None:
    shapes = {name: tuple(p.shape) for name, p in Llama(CONFIG).state_dict().items()}
    layer = {
        "input_layernorm.weight": (32,),
        "self_attn.q_proj.weight": (32, 32),
        "self_attn.k_proj.weight": (16, 32),
        "self_attn.v_proj.weight": (16, 32),
        "self_attn.o_proj.weight": (32, 32),
        "post_attention_layernorm.weight": (32,),
        "mlp.gate_proj.weight": (48, 32),
        "mlp.up_proj.weight": (48, 32),
        "mlp.down_proj.weight": (32, 48),
    }
    ends = {"embed_tokens.weight": (256, 32), "norm.weight": (32,), "lm_head.weight": (256, 32)}
    assert shapes == ends | {f"layers.{i}.{name}": shape for i in (0, 1) for name, shape in layer.items()}


def test_one_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (torch.cat([p.flatten() for p in Llama(CONFIG, seed=s).parameters()]) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_gives_the_bits_of_its_seed() -> None:
    given = Llama(CONFIG, seed=9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(given.lm_head.weight, Llama(CONFIG, seed=3).lm_head.weight)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Llama(CONFIG, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_matrices_have_the_stated_spread() -> None:
    model = Llama(dataclasses.replace(CONFIG, dim=128, num_layers=8, ffn_dim=256))
    spread = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, std in spread.items():
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        # Standard error of the estimate: at least 64 · 128 numbers, so below 1 %; five of them.
        assert std == pytest.approx(0.02 / math.sqrt(16) if residual else 0.02, rel=0.05), name
    assert all(torch.equal(p, torch.ones_like(p)) for p in model.parameters() if p.ndim == 1)


def test_an_untrained_model_is_no_better_than_guessing() -> None:
    input_ids = tokens(4, 24)
    loss = F.cross_entropy(Llama(CONFIG)(input_ids).flatten(0, 1), input_ids.flatten())
    assert loss.item() == pytest.approx(math.log(256), abs=0.05)


@torch.no_grad()
@pytest.mark.parametrize("parts", [(24,), (5, 19), (1,) * 24, (7, 1, 16)])
def test_a_cache_gives_the_logits_of_the_whole_in_any_parts(parts: tuple[int, ...]) -> None:
    model, input_ids, cache = sharpened(CONFIG), tokens(2, 24), KVCache(24)
    logits = torch.cat([model(part, cache=cache) for part in input_ids.split(parts, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(input_ids), rtol=1e-4, atol=1e-4)
    assert cache.length == 24


@torch.no_grad()
def test_rows_padded_on_the_left_have_the_logits_that_each_has_alone() -> None:
    model, padding = sharpened(CONFIG), torch.tensor([0, 15, 3])
    cache, input_ids = KVCache(24, padding), tokens(3, 24)
    logits = torch.cat([model(part, cache=cache) for part in input_ids.split((18, 1, 5), dim=1)], dim=1)
    for row, start in enumerate(padding.tolist()):
        torch.testing.assert_close(
            logits[row, start:], model(input_ids[row : row + 1, start:])[0], rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_a_cache_holds_no_more_than_the_context() -> None:
    model, cache = Llama(CONFIG), KVCache(30)
    model(tokens(2, 20), cache=cache)
    with pytest.raises(
        ValueError, match=r"input_ids: expected .* max_seq_len=24\], got \(2, 5\) after 20 in the cache"
    ):
        model(tokens(2, 5), cache=cache)


def test_a_cache_is_not_for_training() -> None:
    with pytest.raises(ValueError, match="cache: a cache holds no gradients"):
        Llama(CONFIG)(tokens(2, 5), cache=KVCache(5))


@pytest.mark.parametrize("shape", [(5,), (2, 25), (1, 2, 3)])
def test_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input_ids: expected shape \[batch, at most max_seq_len=24\], got"):
        Llama(CONFIG)(tokens(*shape))
