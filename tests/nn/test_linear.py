"""QuantLinear: the contract of its three GEMMs, gradients, dtypes, shapes and compilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge import formats
from narrowgauge.nn import SLOTS, QuantLinear, Recipe, recipe

T, N, K = 24, 40, 72
QUANTISED = ["fp8_tensor", "fp8_row", "fp8_deepseek", "mxfp8", "int8_switchback", "rf8"]
"""Plain schemes rounded to nearest; tests/nn/recipes has all the others."""


def operand(x: torch.Tensor, scheme: formats.Scheme | None) -> np.ndarray:
    """What the GEMM sees of x, in float64."""
    array = x.detach().contiguous().numpy()
    return array.astype(np.float64) if scheme is None else formats.quantize_reference(array, scheme).dequantize()


def layer_and_input(name: str | Recipe, bias: bool = True) -> tuple[QuantLinear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = QuantLinear(K, N, bias, recipe=name)
    return layer, torch.randn(T, K, requires_grad=True), torch.randn(T, N)


def assert_product(actual: torch.Tensor, a: np.ndarray, b: np.ndarray) -> None:
    """actual [M, N] is a·bᵀ up to the float32 accumulation bound γ_n |a||b|ᵀ and the roundings of scales and output."""
    n = a.shape[1] + 8
    gamma = n * 2.0**-24 / (1 - n * 2.0**-24)
    exact, magnitude = a @ b.T, np.abs(a) @ np.abs(b).T
    assert (np.abs(actual.detach().double().numpy() - exact) <= gamma * magnitude + 1e-30).all()


MINE = formats.CodebookFormat.from_values([-1.5, -0.9, -0.4, -0.1, 0.0, 0.2, 0.5, 1.0], "recipe_codebook")
EVERY = {
    "codebooks": recipe(
        "codebooks", x_fprop="dynamic8/row", w_fprop="nf4/1x64", g_dgrad="hif8/row", w_dgrad="nf4/1x8",
        g_wgrad="posit8es1/row", x_wgrad="dynamic8/1x8",
    ),
    "mine": recipe("mine", **dict.fromkeys(SLOTS, formats.Scheme(MINE, (1, 16)))),
    "nvfp4": recipe(
        "nvfp4", x_fprop="nvfp4", w_fprop="nvfp4_2d", g_dgrad="nvfp4", w_dgrad="nvfp4_2d", g_wgrad="nvfp4:rceil",
        x_wgrad="nvfp4",
    ),
    "bfp": recipe("bfp", **dict.fromkeys(SLOTS[:4], "hbfp8"), g_wgrad="mx9", x_wgrad="mx9"),
    "searched": recipe(
        "searched", **dict.fromkeys(SLOTS[:4], "int8/row:percentile=99.5"), g_wgrad="e4m3fn/row:mse", x_wgrad="e5m2+ftz"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["fp32", *QUANTISED, *EVERY])
def test_each_gemm_is_the_product_of_its_quantised_operands(name: str) -> None:
    layer, x, g = layer_and_input(EVERY.get(name, name), bias=False)
    y = layer(x)
    y.backward(g)
    slots = layer.recipe.slots
    w = layer.weight
    assert_product(y, operand(x, slots["x_fprop"]), operand(w, slots["w_fprop"]))
    assert_product(x.grad, operand(g, slots["g_dgrad"]), operand(w.t(), slots["w_dgrad"]))
    assert_product(w.grad, operand(g.t(), slots["g_wgrad"]), operand(x.t(), slots["x_wgrad"]))


@pytest.mark.parametrize("name", QUANTISED)
def test_gradients_point_where_those_of_linear_do(name: str) -> None:
    layer, x, g = layer_and_input(name)
    layer(x).backward(g)
    plain = nn.Linear(K, N)
    plain.load_state_dict(layer.state_dict())
    z = x.detach().clone().requires_grad_()
    plain(z).backward(g)
    for actual, expected in ((x.grad, z.grad), (layer.weight.grad, plain.weight.grad)):
        assert torch.nn.functional.cosine_similarity(actual.flatten(), expected.flatten(), dim=0) > 0.99
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)


def test_fp32_recipe_is_linear_bit_for_bit() -> None:
    layer, x, g = layer_and_input("fp32")
    layer(x).backward(g)
    plain = nn.Linear(K, N)
    plain.load_state_dict(layer.state_dict())
    z = x.detach().clone().requires_grad_()
    plain(z).backward(g)
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    assert torch.equal(x.grad, z.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_output_and_gradients_have_the_dtypes_of_linear(dtype: torch.dtype) -> None:
    layer = QuantLinear(K, N, recipe="fp8_row", dtype=dtype)
    x = torch.randn(2, 3, K, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (2, 3, N)
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == dtype


def test_autocast_gives_its_dtype() -> None:
    layer = QuantLinear(K, N)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(4, K))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("shape", [(1, 7, 13), (0, 8, 16), (3, 1, 1), (5, 129, 131)])
def test_odd_shapes_work_forward_and_backward(name: str, shape: tuple[int, int, int]) -> None:
    tokens, outputs, inputs = shape
    layer = QuantLinear(inputs, outputs, recipe=name)
    x = torch.randn(tokens, inputs, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (tokens, outputs)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(layer.weight.grad).all()


def test_non_contiguous_input_gives_the_same_bits() -> None:
    layer, x, _ = layer_and_input("fp8_deepseek")
    assert torch.equal(layer(x.detach().t().contiguous().t()), layer(x.detach()))


def test_frozen_weight_or_input_skips_its_gemm() -> None:
    layer, x, g = layer_and_input("fp8_row")
    layer.weight.requires_grad_(False)
    layer(x).backward(g)
    assert layer.weight.grad is None
    assert x.grad is not None


def test_nan_in_one_token_stays_in_its_row() -> None:
    layer, x, _ = layer_and_input("fp8_row")
    with torch.no_grad():
        x[5, 3] = float("nan")
        y = layer(x)
    assert torch.isnan(y).any(dim=1).nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("name", ["fp8_row", "mxfp8", "int8_switchback"])
def test_compiled_mlp_is_one_graph_and_agrees(name: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(QuantLinear(K, N, recipe=name), nn.GELU(), QuantLinear(N, 8, recipe=name))
    x = torch.randn(T, K)
    expected = model(x)
    expected.sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    actual = torch.compile(model, fullgraph=True)(x)
    actual.sum().backward()
    # GELU compiled differs in last bits, which may move a value across a rounding border of the second layer.
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert torch.nn.functional.cosine_similarity(parameter.grad.flatten(), grad.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("name", ["nvfp4", "codebooks", "bfp"])
def test_compiled_layer_gives_the_same_bits_in_every_format(name: str) -> None:
    torch.compiler.reset()
    layer, x, g = layer_and_input(EVERY[name])
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(compiled, expected)
    grads = [torch.autograd.grad(y, layer.weight, g)[0] for y in (compiled, expected)]
    assert torch.equal(*grads)


def test_stochastic_recipe_draws_anew_each_call_and_resumes_from_its_state() -> None:
    mine = recipe("mine", **dict.fromkeys(SLOTS, "e4m3fn/row+sr"))
    layer, x, _ = layer_and_input(mine)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    again, _, _ = layer_and_input(mine)
    assert torch.equal(again(x), first)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


def test_saved_activations_are_codes() -> None:
    layer, x, _ = layer_and_input("fp8_row", bias=False)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    activations = [t for t in saved if t.data_ptr() != layer.weight.data_ptr()]
    assert sum(t.nbytes for t in activations) == T * K + 4 * K + 4


def test_wrong_input_is_named() -> None:
    layer = QuantLinear(K, N)
    with pytest.raises(ValueError, match="input: expected last axis 72"):
        layer(torch.randn(4, 71))
    with pytest.raises(TypeError, match="input: expected a floating dtype"):
        layer(torch.ones(4, K, dtype=torch.int64))
