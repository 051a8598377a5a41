"""QuantEmbedding: rows of the quantised table, gradients of nn.Embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge import formats
from narrowgauge.nn import QuantLinear, recipe
from narrowgauge.nn.embedding import QuantEmbedding

V, D = 23, 24
INDEX = torch.tensor([[3, 0, 22, 3], [5, 5, 1, 7]])


def pair(scheme: str, **settings: Any) -> tuple[nn.Embedding, QuantEmbedding]:
    torch.manual_seed(0)
    plain = nn.Embedding(V, D, **settings)
    quantised = QuantEmbedding(V, D, scheme=scheme, **settings)
    quantised.load_state_dict(plain.state_dict())
    return plain, quantised


@pytest.mark.parametrize(
    "scheme", ["int8/row", "e4m3fn/row", "int4/1x8", "nf4/1x8", "mxfp8", "int8", "nvfp4", "e4m3fn/8x8", "int16/row"]
)
def test_rows_are_those_of_the_quantised_table(scheme: str) -> None:
    plain, layer = pair(scheme)
    table = np.float32(formats.quantize_reference(plain.weight.detach().numpy(), scheme).dequantize())
    y = layer(INDEX)
    assert np.array_equal(y.detach().numpy(), table[INDEX.numpy()])
    g = torch.randn_like(y)
    y.backward(g)
    plain(INDEX).backward(g)
    assert torch.equal(layer.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("scheme", ["int8/row", "int8"])
@pytest.mark.parametrize("settings", [{"padding_idx": 3}, {"scale_grad_by_freq": True}])
def test_gradients_are_those_of_the_plain_table(settings: dict[str, Any], scheme: str) -> None:
    plain, layer = pair(scheme, **settings)
    for module in (plain, layer):
        module(INDEX).square().sum().backward() if module is plain else None
    y = layer(INDEX)
    y.backward(2 * plain(INDEX).detach())
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    if "padding_idx" in settings:
        assert (layer.weight.grad[3] == 0).all()


def test_sparse_gradients_and_max_norm_by_row() -> None:
    plain, layer = pair("int8/row", sparse=True)
    g = torch.randn(2, 4, D)
    layer(INDEX).backward(g)
    plain(INDEX).backward(g)
    assert layer.weight.grad.is_sparse
    assert torch.equal(layer.weight.grad.to_dense(), plain.weight.grad.to_dense())
    _, layer = pair("int8/row", max_norm=1.0)
    y = layer(INDEX)
    assert (y.norm(dim=-1) < 1.02).all()
    assert (layer.weight[INDEX].norm(dim=-1) < 1.0001).all()


def test_tied_head_and_table_share_parameter_and_numbers() -> None:
    torch.manual_seed(0)
    embed = QuantEmbedding(V, D, recipe="fp8_row")
    head = QuantLinear(D, V, bias=False, recipe="fp8_row")
    head.weight = embed.weight
    again = QuantEmbedding.from_embedding(embed, "mxfp8")
    assert again.weight is head.weight
    seen = formats.quantize_reference(head.weight.detach().numpy(), "e4m3fn/row").dequantize()
    assert np.array_equal(embed(torch.arange(V)).detach().numpy(), np.float32(seen))
    head(embed(INDEX)).sum().backward()
    assert embed.weight.grad is head.weight.grad


def test_from_embedding_keeps_everything_of_the_plain_layer() -> None:
    plain = nn.Embedding(V, D, padding_idx=2, dtype=torch.bfloat16).eval()
    layer = QuantEmbedding.from_embedding(plain, scheme="int8/row")
    assert layer.weight is plain.weight
    assert (layer.padding_idx, layer.training) == (2, False)
    assert list(layer.state_dict()) == ["weight"]
    assert layer(INDEX).dtype == torch.bfloat16
    assert "23, 24, padding_idx=2, weight=int8/row" in repr(layer)


def test_a_recipe_without_weights_is_the_plain_table_and_rotations_are_turned_back() -> None:
    plain = nn.Embedding(V, D)
    assert torch.equal(QuantEmbedding.from_embedding(plain, "fp32")(INDEX), plain(INDEX))
    turned = recipe("turned", x_fprop="int8/row+h8", w_fprop="int8/row+h8")
    torch.testing.assert_close(QuantEmbedding.from_embedding(plain, turned)(INDEX), plain(INDEX), atol=0.05, rtol=0.05)


def test_compiled_lookup_is_one_graph() -> None:
    torch.compiler.reset()
    _, layer = pair("int8/row")
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(INDEX)
    assert torch.equal(y, layer(INDEX))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: QuantEmbedding(V, D, scheme="int8/row+sr"), "draws at random"),
        (lambda: QuantEmbedding(V, D, scheme="int8", sparse=True), "sparse: got True, but int8 quantises the table"),
        (lambda: QuantEmbedding(V, D, scheme="int8", max_norm=1.0), "max_norm: got 1.0, but int8"),
        (lambda: QuantEmbedding(V, D, recipe="fp9_row"), "unknown name 'fp9_row'"),
    ],
)
def test_bad_arguments_are_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
