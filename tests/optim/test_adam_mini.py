"""Adam-mini: the formula in float64, its partition from names, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.optim.adam_mini import AdamMini
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.model import Llama
from optimizer_steps import gaussian


@pytest.mark.parametrize(("name", "shape", "blocks"), [
    ("embed_tokens.weight", (10, 6), 10), ("layers.0.self_attn.q_proj.weight", (16, 12), 4),
    ("layers.0.self_attn.k_proj.weight", (8, 12), 2), ("layers.0.self_attn.v_proj.weight", (8, 12), 8),
    ("norm.weight", (12,), 1),
])  # fmt: skip
def test_fp32_state_is_the_formula(name: str, shape: tuple[int, ...], blocks: int) -> None:
    w = nn.Parameter(gaussian(*shape))
    optimizer = AdamMini(
        [(name, w)], lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, heads=4, kv_heads=2, state="fp32"
    )
    x, m, v = w.detach().double(), torch.zeros(shape).double(), torch.zeros(blocks).double()
    for t in range(1, 7):
        w.grad = 1e-2 * gaussian(*shape, seed=t)
        optimizer.step()
        g = w.grad.double()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * (g * g).view(blocks, -1).mean(1)
        root = (v / (1 - 0.95**t)).sqrt() + 1e-6
        x = x * (1 - 0.02 * 0.1) - 0.02 * (m.view(blocks, -1) / (1 - 0.8**t) / root[:, None]).view(shape)
    assert optimizer.state[w]["block_avg_sq"].shape == (blocks,)
    torch.testing.assert_close(w.double(), x, rtol=0, atol=2e-6)


def test_with_a_block_for_each_element_it_is_adamw() -> None:
    ours, theirs = nn.Parameter(gaussian(6, 8)), nn.Parameter(gaussian(6, 8))
    a, b = AdamMini([ours], lr=1e-2, blocks=48, state="fp32"), torch.optim.AdamW([theirs], lr=1e-2)
    for t in range(5):
        ours.grad = theirs.grad = gaussian(6, 8, seed=t)
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("state", "expected"), [("log8", 1 + 2 / 128), ("int8", 1 + 4 / 128), ("fp32", 4.0)])
def test_state_bytes_are_those_of_one_moment(state: str, expected: float) -> None:
    w = nn.Parameter(gaussian(256, 512))
    optimizer = AdamMini([("up_proj.weight", w)], state=state)
    w.grad = gaussian(256, 512)
    optimizer.step()
    assert optimizer.state_bytes().total == expected * w.numel() + 4 * 256 + 4  # and v of each row, and the step


def test_every_parameter_of_a_llama_has_known_blocks() -> None:
    sizes = {"num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 48, "max_seq_len": 8, "vocab_size": 20}
    model = Llama(LlamaConfig(dim=32, **sizes))
    optimizer = AdamMini(model.named_parameters(), heads=4, kv_heads=2)
    (group,) = optimizer.param_groups
    blocks = {name: optimizer.blocks_of(p, group) for name, p in model.named_parameters()}
    assert blocks["layers.0.self_attn.q_proj.weight"] == 4
    assert blocks["layers.0.self_attn.k_proj.weight"] == 2
    assert blocks["layers.0.self_attn.v_proj.weight"] == 16
    assert blocks["embed_tokens.weight"] == blocks["lm_head.weight"] == 20
    assert blocks["layers.0.mlp.gate_proj.weight"] == 48
    assert blocks["norm.weight"] == 1


def test_a_partition_is_a_part_of_the_saved_options() -> None:
    w = nn.Parameter(gaussian(8, 8))
    optimizer = AdamMini([("c_attn.weight", w)], blocks={"*c_attn*": 4})
    w.grad = gaussian(8, 8)
    optimizer.step()
    other = AdamMini([("c_attn.weight", nn.Parameter(gaussian(8, 8)))], blocks="row")
    other.load_state_dict(optimizer.state_dict())
    (loaded,) = other.state.values()
    assert loaded["block_avg_sq"].shape == (4,)


@pytest.mark.parametrize(("params", "options", "message"), [
    ([("c_attn.weight", (6, 4))], {}, "'c_attn.weight' of shape .* is of no known kind; pass blocks="),
    ([("q_proj.weight", (6, 4))], {}, "heads: parameter 'q_proj.weight' is a query or key projection"),
    ([("q_proj.weight", (6, 4))], {"heads": 4}, "cannot be cut into 4 equal blocks"),
    ([("up_proj.weight", (6, 4))], {"blocks": "rows"}, "blocks: got 'rows'"),
    ([(None, (6, 4))], {}, "has no name; pass model.named_parameters"),
    ([("up_proj.weight", (6, 4))], {"betas": (0.9, 1.0)}, "betas: got"),
])  # fmt: skip
def test_what_it_refuses(params: list[Any], options: dict[str, Any], message: str) -> None:
    made = [
        (name, nn.Parameter(gaussian(*shape))) if name else nn.Parameter(gaussian(*shape)) for name, shape in params
    ]
    with pytest.raises(ValueError, match=message):
        AdamMini(made, **options)
