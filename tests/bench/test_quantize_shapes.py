"""Matrices are named as text or by a model."""

from __future__ import annotations

import pytest

from narrowgauge.bench.quantize_shapes import activations, matrices, parse_matrix, shape_text


def test_a_shape_is_read_and_written() -> None:
    assert parse_matrix("4096x14336") == parse_matrix("4096X14336") == (4096, 14336)
    assert shape_text((4096, 14336)) == "4096x14336"


@pytest.mark.parametrize("text", ["4096", "1x2x3", "0x4", "ax4", "-1x4", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="accepted: MxK with numbers of 1 or more"):
        parse_matrix(text)


def test_a_model_gives_what_its_layers_read_once_each() -> None:
    assert activations("llama3-8b", 512) == [(512, 4096), (512, 14336)]


def test_experts_read_their_share_of_the_tokens() -> None:
    assert (16, 768) in activations("qwen3-30b-a3b", 256)


def test_all_that_is_asked_for_is_taken_once() -> None:
    assert matrices(["2x3", "2x3"], ["llama3-8b"], 2, 7) == [(2, 3), (2, 4096), (2, 14336)]
    assert matrices([], [], 2, 7) == [(7, 7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([], [], 1, 0), "size: expected at least 1, got 0"), (([], ["llama3-8b"], 0, 1), "tokens: expected at least 1"),
     (([], ["llama9"], 1, 1), "model: got 'llama9'")],
)  # fmt: skip
def test_mistakes_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matrices(*arguments)
