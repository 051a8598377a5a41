"""Shapes of models are those of their config.json, and the three products of a layer fit together."""

from __future__ import annotations

import pytest

from narrowgauge.bench.model_shapes import MODELS, Layer, Pass, get_model, model_problems, parse_shape

KNOWN = {
    # (N, K) as published by benchmarks of these models, and parameters of all blocks and the head, in 10^9, embedding
    # left out.
    "llama3-8b": ({"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}, 32, 7.50),
    "llama3-70b": ({"qkv": (10240, 8192), "o": (8192, 8192), "gate_up": (57344, 8192), "down": (8192, 28672)}, 80,
                   69.5),
    "qwen2.5-7b": ({"qkv": (4608, 3584), "o": (3584, 3584), "down": (3584, 18944)}, 28, 7.07),
    "qwen3-8b": ({"qkv": (6144, 4096), "o": (4096, 4096), "down": (4096, 12288)}, 36, 7.57),
    "qwen3-30b-a3b": ({"qkv": (5120, 2048), "o": (2048, 4096), "expert_down": (2048, 768)}, 48, 30.2),
    "deepseek-v3": ({"qkv_a": (2112, 7168), "q_b": (24576, 1536), "kv_b": (32768, 512), "o": (7168, 16384),
                     "shared_gate_up": (4096, 7168), "expert_down": (7168, 2048)}, 61, 670.0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_layers_are_those_of_the_model(name: str) -> None:
    expected, blocks, billions = KNOWN[name]
    layers = {layer.name: layer for layer in get_model(name).layers}
    assert {key: (layers[key].n, layers[key].k) for key in expected} == expected
    dense_blocks = 3  # of DeepSeek-V3, whose other blocks have experts
    total = 0.0
    for layer in layers.values():
        count = 1 if layer.name == "lm_head" else blocks
        if layer.name.startswith("dense_"):
            count = dense_blocks
        elif name == "deepseek-v3" and layer.name.startswith(("shared_", "expert_")):
            count = blocks - dense_blocks
        total += count * layer.n * layer.k * layer.experts
    assert total / 1e9 == pytest.approx(billions, rel=0.01)


def test_every_model_is_checked_and_has_a_source() -> None:
    assert set(MODELS) == set(KNOWN)
    assert all("hidden_size" in model.source for model in MODELS.values())


def test_three_products_of_a_layer() -> None:
    problems = model_problems(["llama3-8b"], [64], list(Pass), layers=["down"])
    assert [(p.m, p.n, p.k) for p in problems] == [(64, 4096, 14336), (64, 14336, 4096), (4096, 14336, 64)]
    assert len({p.flops for p in problems}) == 1


def test_experts_see_their_share_of_the_tokens() -> None:
    (problem,) = model_problems(["deepseek-v3"], [4096], layers=["expert_down"])
    assert problem.m == 4096 * 8 // 256
    assert Layer("x", 1, 1, experts=256, used=8).rows(1) == 1


def test_names_are_unique_and_the_head_is_left_out() -> None:
    problems = model_problems(list(MODELS), [1, 64], ["fprop", "dgrad", "wgrad"])
    assert len({p.name for p in problems}) == len(problems)
    assert not any("lm_head" in p.name for p in problems)
    assert model_problems(["qwen3-8b"], [1], layers=["lm_head"])[0].n == 151936


def test_smaller_shapes() -> None:
    (problem,) = model_problems(["llama3-8b"], [8], layers=["qkv"], divide=4)
    assert (problem.n, problem.k) == (1536, 1024)


def test_shape_as_text() -> None:
    problem = parse_shape("2048x6144x4096")
    assert (problem.m, problem.n, problem.k, problem.name) == (2048, 6144, 4096, "2048x6144x4096")


@pytest.mark.parametrize("text", ["8x8", "8x8x0", "ax8x8", "8x8x8x8", "8x-1x8"])
def test_other_texts_are_no_shapes(text: str) -> None:
    with pytest.raises(ValueError, match=f"shape: got '{text}', accepted: MxNxK"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["llama9"], "tokens": [1]}, "model: got 'llama9', accepted: llama3-8b"),
        ({"names": ["llama3-8b"], "tokens": [0]}, "tokens: got 0"),
        ({"names": ["llama3-8b"], "tokens": [1], "layers": ["up"]}, "layer: got 'up', accepted: down, gate_up"),
        ({"names": ["llama3-8b"], "tokens": [1], "divide": 0}, "divide: got 0"),
    ],
)
def test_mistakes_are_named(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_problems(**options)
