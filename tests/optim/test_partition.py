"""Adam-mini's blocks: by name, by pattern, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from narrowgauge.optim.partition import HEAD_PARTS, ROW_PARTS, block_count, check_blocks

MATRIX = torch.Size((64, 48))


@pytest.mark.parametrize(("name", "expected"), [
    ("model.layers.0.self_attn.q_proj.weight", 8), ("model.layers.11.self_attn.k_proj.weight", 2),
    ("layers.3.attention.wk.weight", 2), ("h.0.attn.to_q.weight", 8), ("encoder.layer.0.attention.self.key.weight", 2),
    ("model.layers.0.self_attn.v_proj.weight", 64), ("model.layers.0.mlp.down_proj.weight", 64),
    ("model.embed_tokens.weight", 64), ("transformer.wte.weight", 64), ("lm_head.weight", 64),
    ("blocks.0.to_out.0.weight", 64), ("bert.encoder.layer.0.output.dense.weight", 64),
])  # fmt: skip
def test_known_names_have_the_blocks_of_the_paper(name: str, expected: int) -> None:
    assert block_count(name, MATRIX, None, heads=8, kv_heads=2) == expected


def test_without_kv_heads_keys_have_as_many_as_queries() -> None:
    assert block_count("k_proj.weight", MATRIX, None, heads=8, kv_heads=None) == 8


@pytest.mark.parametrize("shape", [(), (7,), (1,)])
def test_vectors_are_one_block_whatever_their_name(shape: tuple[int, ...]) -> None:
    assert block_count("q_proj.bias", torch.Size(shape), None, None, None) == 1
    assert block_count(None, torch.Size(shape), None, None, None) == 1


@pytest.mark.parametrize(("blocks", "expected"), [
    ("tensor", 1), ("row", 64), ("head", 4), (16, 16), ({"attn.*.weight": 12}, 12),
    ({"*.weight": 12, "attn.c_attn.weight": "row"}, 64),
])  # fmt: skip
def test_a_partition_can_be_given(blocks: Any, expected: int) -> None:
    assert block_count("attn.c_attn.weight", MATRIX, blocks, heads=4, kv_heads=None) == expected


def test_a_group_wide_partition_needs_no_names() -> None:
    assert block_count(None, MATRIX, "row", None, None) == 64


@pytest.mark.parametrize(("name", "blocks", "message"), [
    ("attn.c_attn.weight", None, r"'attn.c_attn.weight' of shape \(64, 48\) is of no known kind; pass blocks="),
    (None, None, r"a parameter of shape \(64, 48\) has no name; pass model.named_parameters"),
    (None, {"*": "row"}, "has no name"),
    ("mlp.up_proj.weight", {"*": 7}, "cannot be cut into 7 equal blocks"),
    ("mlp.up_proj.weight", 0, "cannot be cut into 0 equal blocks"),
    ("q_proj.weight", None, "heads: parameter 'q_proj.weight' is a query or key projection; pass heads="),
])  # fmt: skip
def test_what_does_not_follow_is_refused(name: str | None, blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_count(name, MATRIX, blocks, None, None)


def test_heads_have_to_divide_the_rows() -> None:
    # 24 blocks divide the 3072 elements, but would cut heads across rows.
    with pytest.raises(ValueError, match="cannot be cut into 24 equal blocks"):
        block_count("q_proj.weight", MATRIX, None, heads=24, kv_heads=None)


def test_options_are_checked() -> None:
    check_blocks({"a": "row", "b": 3})
    with pytest.raises(ValueError, match="blocks: got 'rows', accepted are tensor, row, head"):
        check_blocks("rows")
    with pytest.raises(TypeError, match="blocks: expected one of"):
        check_blocks({"a": 2.0})  # type: ignore[dict-item]


def test_no_name_is_of_two_kinds() -> None:
    assert not HEAD_PARTS & ROW_PARTS
