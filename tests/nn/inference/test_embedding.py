"""InferenceEmbedding: looking up codes is looking up the dequantised table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge import formats
from narrowgauge.nn.inference import InferenceEmbedding

ROWS, WIDTH = 33, 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "scheme",
    ["int8/row", "int4/1x16", "nf4/1x8", "mxfp4", "nvfp4", "mx6", "int8", "e4m3fn/8x8", "int3/row", "int8/col"],
)
def test_lookup_equals_the_dequantised_table(scheme: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(ROWS, WIDTH, padding_idx=3, dtype=dtype)
    layer = InferenceEmbedding.from_embedding(plain, scheme)
    wide = plain.weight.detach().float().numpy()
    table = torch.from_numpy(np.float32(formats.quantize_reference(wide, scheme).dequantize())).to(dtype)
    index = torch.randint(0, ROWS, (2, 3, 5))
    y = layer(index)
    assert y.dtype == dtype
    assert torch.equal(y, table[index])
    assert torch.equal(layer.weight, table)
    assert layer(index[:0]).shape == (0, 3, 5, WIDTH)


def test_double_quantised_scales_are_picked_with_their_rows() -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(500, 192)
    layer = InferenceEmbedding.from_embedding(plain, "nf4/1x64", double_scale=True)
    index = torch.tensor([[499, 0, 171], [170, 256, 3]])
    assert layer.second.numel() == 6
    assert torch.equal(layer(index), layer.weight[index])


def test_a_state_dict_fills_a_layer_made_from_the_description() -> None:
    layer = InferenceEmbedding.from_embedding(nn.Embedding(ROWS, WIDTH), "int4/1x8")
    again = InferenceEmbedding(**layer.quantization)
    again.load_state_dict(layer.state_dict())
    index = torch.arange(ROWS)
    assert torch.equal(again(index), layer(index))
    assert "weight=int4/1x8" in repr(layer)


def test_bad_calls_are_named() -> None:
    layer = InferenceEmbedding.from_embedding(nn.Embedding(ROWS, WIDTH), "int8/row")
    with pytest.raises(TypeError, match="input: expected int64 or int32 indices"):
        layer(torch.zeros(3))
    for index in (ROWS, -1):
        with pytest.raises(IndexError):
            layer(torch.tensor([index]))
    with pytest.raises(ValueError, match="max_norm"):
        InferenceEmbedding.from_embedding(nn.Embedding(ROWS, WIDTH, max_norm=1.0))


def test_compiled_lookup_has_the_same_bits() -> None:
    torch.compiler.reset()
    layer = InferenceEmbedding.from_embedding(nn.Embedding(ROWS, WIDTH), "int8/row")
    index = torch.arange(7)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(index), layer(index))
