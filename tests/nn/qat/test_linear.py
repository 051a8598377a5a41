"""QATLinear: the product of its quantised operands, gradients, strength, autocast and compilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import QATLinear, hadamard, qat


def layer_and_input(name: str, **settings) -> tuple[QATLinear, torch.Tensor]:
    torch.manual_seed(0)
    return QATLinear.from_linear(nn.Linear(32, 12), qat(name, **settings)), torch.randn(6, 32, requires_grad=True)


@pytest.mark.parametrize("name", ["llm_qat", "quest", "lsq", "bitnet_b158"])
def test_outputs_and_gradients_are_products_of_the_quantised_operands(name: str) -> None:
    layer, x = layer_and_input(name)
    y = layer(x)
    g = torch.randn(6, 12)
    y.backward(g)
    a = layer.quantized_input(x.detach()).detach().double().numpy()
    b = layer.quantized_weight().detach().double().numpy()
    gamma = 44 * 2.0**-24
    exact = a @ b.T + layer.bias.detach().double().numpy()
    assert (np.abs(y.detach().double().numpy() - exact) <= gamma * (np.abs(a) @ np.abs(b).T + 1)).all()
    if name == "quest":
        return  # its gradients are masked and rotated back: tests/nn/qat/test_quest.py
    of_x = g.double().numpy() @ b
    assert (np.abs(x.grad.double().numpy() - of_x) <= gamma * (g.abs().double().numpy() @ np.abs(b))).all()
    if name != "lsq":
        of_w = g.double().numpy().T @ a
        bound = gamma * (g.abs().double().numpy().T @ np.abs(a))
        assert (np.abs(layer.weight.grad.double().numpy() - of_w) <= bound).all()


def test_rotation_leaves_the_exact_product_alone() -> None:
    layer, x = layer_and_input("quest", bits=8, activation_bits=None)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert layer.weight_quantizer.rotate == 32
    relative = (layer(x) - plain).norm() / plain.norm()
    assert relative < 0.02
    layer.set_strength(0.0)
    torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)


def test_strength_blends_weight_and_input() -> None:
    layer, x = layer_and_input("llm_qat", bits=2, activation_bits=4)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    layer.set_strength(0.0)
    assert torch.equal(layer(x), plain)
    layer.set_strength(0.25)
    torch.testing.assert_close(
        layer.quantized_weight(), 0.75 * layer.weight + 0.25 * layer.weight_quantizer(layer.weight)
    )
    torch.testing.assert_close(layer.quantized_input(x), 0.75 * x + 0.25 * layer.activation_quantizer(x))
    rotated, y = layer_and_input("quest", bits=2)
    rotated.set_strength(0.5)
    expected = 0.5 * hadamard(rotated.weight, 32) + 0.5 * rotated.weight_quantizer(rotated.weight)
    torch.testing.assert_close(rotated.quantized_weight(), expected)
    rotated(y).sum().backward()
    with pytest.raises(ValueError, match=r"strength: got 1\.5"):
        layer.set_strength(1.5)


def test_learned_values_are_parameters_of_the_layer() -> None:
    layer, _ = layer_and_input("lsq", activation_bits=4)
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["weight", "bias", "weight_quantizer.step", "activation_quantizer.step"]


def test_gradient_quantiser_acts_on_the_gradient_of_the_output() -> None:
    layer, x = layer_and_input("dorefa", activation_bits=None, gradient_bits=1)
    g = torch.randn(6, 12)
    layer(x).backward(g)
    # One bit: every entry of a sample's gradient is ± its largest, so the bias gets sums of such.
    largest = g.abs().amax(1)
    total = layer.bias.grad.double()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
    possible = signs @ largest.double()
    assert ((total[:, None] - possible).abs().amin(1) < 1e-5).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lsq", {"activation_bits": 8}),
        ("llm_qat", {}),
        ("quest", {}),
        ("bitnet_b158", {}),
        ("dge", {}),
        ("efficientqat", {"bits": 3, "group": 16}),
        ("pact", {"bits": 4, "activation_bits": 8}),
        ("bitdistiller", {"grid": "nf", "group": 16}),
    ],
)
def test_autocast_and_compiled_graphs(name: str, settings: dict) -> None:
    layer, x = layer_and_input(name, **settings)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-6)


def test_inputs_are_checked() -> None:
    layer, _ = layer_and_input("lsq")
    with pytest.raises(ValueError, match="expected last axis 32"):
        layer(torch.zeros(2, 31))
    with pytest.raises(TypeError, match="floating dtype"):
        layer(torch.zeros(2, 32, dtype=torch.int64))
