"""Which matrices the suites of elementwise work take: "MxK" as text, or what a model's layers read."""

from __future__ import annotations

from collections.abc import Sequence

from narrowgauge.bench.model_shapes import get_model

Shape = tuple[int, int]


def parse_matrix(text: str) -> Shape:
    """(M, K) of "MxK", such as "4096x14336". ValueError for other texts and sizes below 1."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"shape: got {text!r}, accepted: MxK with numbers of 1 or more, such as 4096x14336")
    return int(parts[0]), int(parts[1])


def activations(model: str, tokens: int) -> list[Shape]:
    """The inputs [rows, K] of the model's linear layers for so many tokens, each once; an expert's has its share of
    the rows. ValueError for unknown models and fewer than 1 token."""
    if tokens < 1:
        raise ValueError(f"tokens: expected at least 1, got {tokens}")
    return list(dict.fromkeys((layer.rows(tokens), layer.k) for layer in get_model(model).layers))


def matrices(shapes: Sequence[str], models: Sequence[str], tokens: int, size: int) -> list[Shape]:
    """All of them, each once; [size, size] where neither shapes nor models are given."""
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    found = [parse_matrix(text) for text in shapes]
    for model in models:
        found += activations(model, tokens)
    return list(dict.fromkeys(found)) or [(size, size)]


def shape_text(shape: Shape) -> str:
    """The text "MxK"."""
    return "x".join(map(str, shape))
