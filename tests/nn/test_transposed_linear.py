"""QuantTransposedLinear: QuantLinear on a weight that is kept as [K, N]."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.nn import QuantLinear
from narrowgauge.nn.transposed_linear import QuantTransposedLinear, is_transposed_linear

K, N = 24, 40


@pytest.mark.parametrize("name", ["fp8_row", "fp8_deepseek", "mxfp8", "int8_switchback", "fp32"])
def test_products_are_those_of_the_transposed_weight_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    layer = QuantTransposedLinear(K, N, recipe=name)
    plain = QuantLinear(K, N, recipe=name)
    with torch.no_grad():
        plain.weight.copy_(layer.weight.t())
        plain.bias.copy_(layer.bias.normal_())
    x, z = (torch.randn(2, 5, K, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    y, expected = layer(x), plain(z)
    g = torch.randn_like(y)
    y.backward(g)
    expected.backward(g)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(x.grad, z.grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad.t(), rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


def test_transformers_conv1d_shares_its_parameters() -> None:
    conv1d = pytest.importorskip("transformers").pytorch_utils.Conv1D
    plain = conv1d(N, K)
    layer = QuantTransposedLinear.from_conv1d(plain, "fp8_row")
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert list(layer.state_dict()) == list(plain.state_dict())
    assert (layer.in_features, layer.out_features) == (K, N)
    x = torch.randn(3, 5, K)
    torch.testing.assert_close(layer(x), plain(x), atol=0.02, rtol=0.1)
    assert is_transposed_linear(plain)
    assert is_transposed_linear(layer)
    again = QuantTransposedLinear.from_conv1d(layer, "mxfp8")
    assert again.weight is plain.weight
    assert again.recipe.name == "mxfp8"


def test_dtypes_and_autocast() -> None:
    layer = QuantTransposedLinear(K, N, bias=False, dtype=torch.bfloat16)
    x = torch.randn(3, K, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert QuantTransposedLinear(K, N)(torch.randn(3, K)).dtype == torch.bfloat16


def test_bad_input_is_named() -> None:
    layer = QuantTransposedLinear(K, N)
    assert "nf=40, nx=24, recipe=fp8_row" in repr(layer)
    with pytest.raises(ValueError, match="input: expected last axis 24"):
        layer(torch.randn(4, K + 1))
    with pytest.raises(TypeError, match="input: expected a floating dtype"):
        layer(torch.ones(4, K, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"layer: expected transformers.pytorch_utils.Conv1D, got torch.nn"):
        QuantTransposedLinear.from_conv1d(nn.Linear(K, N))
    assert not is_transposed_linear(nn.Conv1d(4, 4, 1))


def test_a_map_of_the_weight_sees_the_transposed_matrix() -> None:
    torch.manual_seed(0)
    layer = QuantTransposedLinear(N, N, bias=False, recipe="tetrajet_qema")
    plain = QuantLinear(N, N, bias=False, recipe="tetrajet_qema")
    with torch.no_grad():
        plain.weight.copy_(layer.weight.t())
    plain.weight_map.ema.copy_(plain.weight)
    x = torch.randn(3, N)
    for step in range(12):
        with torch.no_grad():
            for weight in (layer.weight, plain.weight):
                weight.add_(0.01 if step % 2 else -0.01)
        y, expected = layer(x), plain(x)
    assert torch.equal(layer.weight_map.ema, plain.weight_map.ema)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
