"""LoRALinear on every base: output, gradients, what is frozen, what merging gives."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge import formats
from narrowgauge.nn import QuantLinear
from narrowgauge.nn.adapters import LoRALinear
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.transposed_linear import QuantTransposedLinear

T, N, K = 9, 40, 128


def base(kind: str) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Linear(K, N)
    if kind == "linear":
        return plain
    if kind == "transposed":
        return QuantTransposedLinear(K, N, recipe="fp8_row")
    if kind == "fp8":
        return QuantLinear.from_linear(plain, "fp8_row")
    if kind == "nf4":
        return InferenceLinear.from_linear(plain, "nf4/1x64", double_scale=True)
    return InferenceLinear.from_linear(plain, "int8/row")


def adapted(kind: str, **options: object) -> LoRALinear:
    layer = LoRALinear(base(kind), 4, 8.0, **options)
    with torch.no_grad():
        layer.lora_B.normal_(std=0.1)
    return layer


KINDS = ("linear", "fp8", "transposed", "nf4", "int8")


@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_its_base(kind: str) -> None:
    x = torch.randn(2, T, K)
    assert torch.equal(LoRALinear(base(kind))(x), base(kind)(x))


@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_base_and_product(kind: str) -> None:
    layer = adapted(kind)
    x, z = (torch.randn(T, K, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    g = torch.randn(T, N)
    y = layer(x)
    y.backward(g)
    a, b = layer.lora_A.detach().clone().requires_grad_(), layer.lora_B.detach().clone().requires_grad_()
    expected = layer.base(z) + 2.0 * (z @ a.t() @ b.t())
    expected.backward(g)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, z.grad)
    torch.testing.assert_close(layer.lora_A.grad, a.grad)
    torch.testing.assert_close(layer.lora_B.grad, b.grad)
    assert all(p.grad is None and not p.requires_grad for p in layer.base.parameters())


def test_nf4_base_is_the_numpy_definition_and_its_gradient_goes_through_it() -> None:
    plain = base("linear")
    layer = adapted("nf4")
    q = formats.quantize_reference(plain.weight.detach().numpy(), "nf4/1x64")
    mean = layer.base.mean.numpy()
    again = formats.quantize_reference((q.scale - mean).reshape(1, -1), "dynamic8/1x256")
    scale = np.float32(np.float32(again.dequantize().reshape(q.scale.shape)) + mean)
    weight = formats.get("nf4").decode(q.codes).astype(np.float32) * np.repeat(scale, 64, 1)
    assert np.array_equal(layer.weight.numpy(), weight)
    reference = copy.deepcopy(layer)
    reference.base = nn.Linear(K, N)
    reference.base.weight, reference.base.bias = nn.Parameter(torch.from_numpy(weight)), plain.bias
    x, z = (torch.randn(T, K, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    y, expected = layer(x), reference(z)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for actual, wanted in ((x, z), (layer.lora_A, reference.lora_A), (layer.lora_B, reference.lora_B)):
        torch.testing.assert_close(actual.grad, wanted.grad)


def test_an_nf4_base_takes_half_a_byte_a_weight_and_keeps_nothing_else_for_backward() -> None:
    layer = LoRALinear(InferenceLinear.from_linear(nn.Linear(1024, 512, bias=False), "nf4/1x64", double_scale=True), 4)
    storages = {
        buffer.untyped_storage().data_ptr(): buffer.untyped_storage().nbytes() for buffer in layer.base.buffers()
    }
    assert sum(storages.values()) / (1024 * 512) == pytest.approx(0.5 + 1 / 64 + 4 / (64 * 256), abs=1e-5)
    x = torch.randn(2, 1024)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    fresh = [t for t in saved if t.untyped_storage().data_ptr() not in storages]
    assert (
        sum(t.nbytes for t in fresh if t.data_ptr() not in {p.data_ptr() for p in layer.parameters()}) <= x.nbytes * 2
    )


@pytest.mark.parametrize("kind", KINDS)
def test_merging_adds_the_product_to_the_weight(kind: str) -> None:
    layer = adapted(kind)
    wide = layer.base.weight.detach().clone()
    product = 2.0 * (layer.lora_B.detach() @ layer.lora_A.detach())
    expected = wide + (product.t() if kind == "transposed" else product)
    merged = layer.merged()
    assert type(merged) is {"linear": nn.Linear, "fp8": QuantLinear, "transposed": QuantTransposedLinear}.get(
        kind, nn.Linear
    )
    torch.testing.assert_close(merged.weight.detach(), expected, rtol=1e-6, atol=1e-7)
    assert merged.weight.requires_grad
    if kind not in ("fp8", "transposed"):
        x = torch.randn(T, K)
        torch.testing.assert_close(merged(x), layer(x) if kind != "linear" else x @ expected.t() + layer.base.bias)


def test_a_ragged_last_block_has_a_scale_of_its_own() -> None:
    plain = nn.Linear(100, 8)
    layer = LoRALinear(InferenceLinear.from_linear(plain, "nf4/1x64", double_scale=True))
    assert layer.base.scale.shape == (8, 2)
    torch.testing.assert_close(layer.weight, plain.weight.detach(), atol=0.02, rtol=0.2)


@pytest.mark.parametrize("kind", ["linear", "fp8", "nf4"])
def test_dtypes(kind: str) -> None:
    layer = adapted(kind, dtype=torch.bfloat16)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.bfloat16
    x = torch.randn(T, K, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.float32
    assert layer.lora_A.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_dropout_is_for_the_adapter_and_for_training() -> None:
    layer = adapted("linear", dropout=0.5)
    x = torch.randn(T, K)
    torch.manual_seed(3)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.lora_B.data.zero_()
    assert torch.equal(layer.train()(x), layer.base(x))


def test_compiled_layer_is_one_graph() -> None:
    torch.compiler.reset()
    layer = adapted("nf4")
    x = torch.randn(T, K, requires_grad=True)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, layer(x))
    y.sum().backward()
    assert layer.lora_A.grad is not None


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: LoRALinear(nn.Conv1d(1, 1, 1)), TypeError, "base: expected a linear layer, got Conv1d"),
        (lambda: LoRALinear(nn.Linear(4, 4), 0), ValueError, "rank: expected 1 or more, got 0"),
        (lambda: LoRALinear(nn.Linear(4, 4), 1, dropout=1.0), ValueError, "dropout: expected"),
        (lambda: LoRALinear(nn.Linear(4, 4), "8"), TypeError, "rank: expected an int, got '8'"),
        (lambda: LoRALinear(nn.Linear(4, 4), 2.0), TypeError, "rank: expected an int, got 2.0"),
        (lambda: LoRALinear(nn.Linear(4, 4), alpha="x"), TypeError, "alpha: expected a number, got 'x'"),
        (lambda: LoRALinear(nn.Linear(4, 4), alpha=math.inf), ValueError, "alpha: expected a finite number, got inf"),
        (lambda: LoRALinear(nn.Linear(4, 4), dropout=None), TypeError, "dropout: expected a number, got None"),
        (lambda: LoRALinear(nn.Linear(4, 4), dtype=torch.int8), TypeError, "dtype: got torch.int8, accepted: torch.fl"),
        (lambda: LoRALinear(InferenceLinear(8, 4, rotate=4)).merged(), ValueError, "its weight is rotated"),
    ],
)
def test_bad_arguments_are_named(call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
    assert "rank=8, alpha=16" in repr(LoRALinear(nn.Linear(4, 4)))
