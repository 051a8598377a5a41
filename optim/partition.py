"""Which elements of a parameter share one second moment in Adam-mini (Zhang et al., arXiv 2406.16793, algorithm 3).

| parameter                                                   | kind   | one number for each                         |
|-------------------------------------------------------------|--------|---------------------------------------------|
| token and position embeddings, output head                  | row    | token                                       |
| query and key projections                                   | head   | head: rows / heads consecutive rows         |
| value and output projections, every matrix of the MLP       | row    | output neuron                               |
| tensors of at most one axis (biases, norms)                 | tensor | tensor                                      |

Every kind is a number of equal, consecutive runs of the flattened parameter. Which one a matrix is of shows in its name
alone, and a wrong one costs stability (section 3 of the paper), so an unknown name is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch

KINDS = ("tensor", "row", "head")
HEAD_PARTS = frozenset((
    "q_proj", "k_proj", "q_b_proj", "wq", "wk", "query", "key", "q", "k", "to_q", "to_k", "q_lin", "k_lin",
))  # fmt: skip
ROW_PARTS = frozenset((
    "embed", "embed_tokens", "embed_out", "embed_in", "embedding", "embeddings", "tok_embeddings", "word_embeddings",
    "position_embeddings", "token_type_embeddings", "shared", "wte", "wpe", "lm_head", "output", "head", "v_proj",
    "o_proj", "out_proj", "wv", "wo", "value", "v", "o", "to_v", "to_out", "v_lin", "out_lin", "gate_proj", "up_proj",
    "down_proj", "gate", "up", "down", "fc", "fc1", "fc2", "c_fc", "w1", "w2", "w3", "wi", "wi_0", "wi_1", "lin1",
    "lin2", "dense", "dense_h_to_4h", "dense_4h_to_h",
))  # fmt: skip
"""The last parts of module names (before `.weight`) as the public Llama, GPT, BERT, T5 and GPT-NeoX models call them.

Not among them, because their rows are not of one kind: fused projections (qkv, c_attn, in_proj, Wqkv)."""

Blocks = Mapping[str, str | int] | str | int | None
"""The option `blocks`: for all parameters of a group, or by name or pattern (as file names: * and ?)."""


def check_blocks(blocks: Blocks) -> None:
    """TypeError or ValueError for what is no partition."""
    for kind in blocks.values() if isinstance(blocks, Mapping) else (blocks,):
        if isinstance(kind, bool) or not isinstance(kind, str | int | None):
            raise TypeError(f"blocks: expected one of {', '.join(KINDS)} or a number of blocks, got {kind!r}")
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"blocks: got {kind!r}, accepted are {', '.join(KINDS)} and numbers of blocks")


def block_count(name: str | None, shape: torch.Size, blocks: Blocks, heads: int | None, kv_heads: int | None) -> int:
    """How many equal runs of the flattened parameter share a second moment.

    name: of the parameter, None where the optimizer was not given names. heads, kv_heads: of query and key projections.
    ValueError, saying what to pass, where that does not follow from these.
    """
    label = f"parameter {name!r}" if name else f"a parameter of shape {tuple(shape)}"
    kind = _kind(name, shape, blocks)
    if kind is None:
        way = "pass blocks={name or pattern: 'tensor', 'row', 'head' or a number}"
        if name is None:
            raise ValueError(f"blocks: {label} has no name; pass model.named_parameters(), or groups with blocks=")
        raise ValueError(f"blocks: {label} of shape {tuple(shape)} is of no known kind; {way}")
    count = kind if isinstance(kind, int) else _count(kind, label, name, shape, heads, kv_heads)
    rows = shape[0] if shape else 1
    fits = count > 0 and (
        shape.numel() % count == 0 if isinstance(kind, int) else rows % count == 0 or kind == "tensor"
    )
    if not fits and shape.numel():
        raise ValueError(f"blocks: {label} of shape {tuple(shape)} cannot be cut into {count} equal blocks")
    return max(count, 1)


def _kind(name: str | None, shape: torch.Size, blocks: Blocks) -> str | int | None:
    if not isinstance(blocks, Mapping) and blocks is not None:
        return blocks
    if blocks and name is not None:
        found = [kind for pattern, kind in blocks.items() if pattern == name]
        found += [kind for pattern, kind in blocks.items() if fnmatchcase(name, pattern)]
        if found:
            return found[0]
    if len(shape) < 2:
        return "tensor"
    part = _last_part(name or "")
    return "head" if part in HEAD_PARTS else "row" if part in ROW_PARTS else None


def _last_part(name: str) -> str:
    """The last part of a name that is neither `weight` nor a number, as of `layers.0.to_out.0.weight`."""
    parts = [part for part in name.split(".") if part != "weight" and not part.isdigit()]
    return parts[-1] if parts else ""


def _count(kind: str, label: str, name: str | None, shape: torch.Size, heads: int | None, kv_heads: int | None) -> int:
    if kind == "tensor":
        return 1
    if kind == "row":
        return shape[0] if shape else 1
    is_key = _last_part(name or "").startswith(("k", "wk", "to_k"))
    count = kv_heads if is_key and kv_heads is not None else heads
    if count is None:
        raise ValueError(f"heads: {label} is a query or key projection; pass heads= (and kv_heads=), or blocks= for it")
    return count
