"""The autograd function of quantised layers: what it saves, when it refuses, and in which precision it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowgauge.nn import SLOTS, QuantLinear, Recipe, recipe
from narrowgauge.nn import operand as operands

T, K, N = 32, 48, 24
STOCHASTIC = recipe("stochastic", every="e4m3fn/row+sr")
DELAYED = recipe("delayed", every="e4m3fn:delayed=3")


def saved_by(layer: QuantLinear, x: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    return kept


@pytest.mark.parametrize(("trained", "flows"), [(True, True), (True, False), (False, True)])
def test_only_what_a_wanted_gradient_needs_is_saved(trained: bool, flows: bool) -> None:
    layer = QuantLinear(K, N, recipe="fp8_row", bias=False)
    layer.weight.requires_grad_(trained)
    kept = saved_by(layer, torch.randn(T, K, requires_grad=flows))
    assert sum(t is layer.weight for t in kept) == (1 if flows else 0)
    assert sum(t.dtype == torch.uint8 for t in kept) == (1 if trained else 0)


@pytest.mark.parametrize("name", ["bf16", "flexpoint16", "s2fp8", "fp8_row_hp_wgrad"])
def test_a_copy_without_codes_is_made_in_backward(name: str) -> None:
    """X itself is kept, which other layers that read it share."""
    x = torch.randn(T, K, requires_grad=True)
    kept = saved_by(QuantLinear(K, N, recipe=name, bias=False), x)
    assert {t.data_ptr() for t in kept if t.shape == (T, K)} == {x.data_ptr()}
    assert all(t.shape in ((T, K), (N, K)) for t in kept)


@pytest.mark.parametrize("chosen", ["fp8_row", "nvfp4", STOCHASTIC], ids=str)
def test_without_gradients_nothing_is_made_for_them(chosen: str | Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, made = QuantLinear(K, N, recipe=chosen), torch.randn(T, K), []
    expected = layer(x).detach()
    layer._buffers.get("rounding_step", torch.zeros(())).zero_()
    real = operands.make_operand
    monkeypatch.setattr("narrowgauge.nn.calls.make_operand", lambda *args: made.append(args[1]) or real(*args))
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
    assert len(made) == 2


def test_second_derivatives_are_refused() -> None:
    layer, x = QuantLinear(K, N), torch.randn(T, K, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_kept_graph_gives_the_same_gradients_again() -> None:
    layer, x = QuantLinear(K, N, recipe=STOCHASTIC), torch.randn(T, K, requires_grad=True)
    y, g = layer(x), torch.randn(T, N)
    first, second = (torch.autograd.grad(y, (x, layer.weight), g, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_of_the_bias_has_its_dtype_and_precision(dtype: torch.dtype) -> None:
    layer, g = QuantLinear(K, N, recipe="int8_switchback", dtype=dtype), torch.randn(T, N, dtype=torch.float64)
    g[0] += 1e6
    layer(torch.randn(T, K, dtype=dtype)).backward(g.to(dtype))
    assert layer.bias.grad.dtype == dtype
    rtol = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(layer.bias.grad.double(), g.to(dtype).double().sum(0), rtol=rtol, atol=0.0)


def test_a_bias_of_another_dtype_than_the_weight_gets_its_own() -> None:
    layer = QuantLinear(K, N)
    layer.bias = torch.nn.Parameter(layer.bias.detach().double())
    layer(torch.randn(T, K)).sum().backward()
    assert layer.bias.grad.dtype == torch.float64


@pytest.mark.parametrize("name", ["gupta16", "fp16", "fp4_dge_occ", "fp8_ibm2018"])
@pytest.mark.parametrize("whole", [False, True], ids=["forward", "forward and backward"])
def test_autocast_does_not_round_the_operands_of_emulated_products(name: str, whole: bool) -> None:
    x, g = torch.randn(T, K).bfloat16(), torch.randn(T, N).bfloat16()
    layers = [QuantLinear(K, N, recipe=name, bias=False) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    expected = layers[0](inputs[0])
    expected.backward(g)
    with torch.autocast("cpu", torch.bfloat16):
        actual = layers[1](inputs[1])
        if whole:
            actual.backward(g)
    if not whole:
        actual.backward(g)
    assert torch.equal(actual, expected)
    assert torch.equal(inputs[1].grad, inputs[0].grad)
    assert torch.equal(layers[1].weight.grad, layers[0].weight.grad)


def test_a_stateful_scale_sees_every_tensor_once() -> None:
    layer, x = QuantLinear(K, N, recipe=DELAYED), torch.randn(T, K, requires_grad=True)
    for steps in (1, 2):
        layer(x).backward(torch.randn(T, N))
        assert [int(layer.scales[slot].steps) for slot in SLOTS] == [steps] * 6
    with torch.no_grad():
        layer(x)  # as a checkpointed part runs: the copy for backward is seen
    assert int(layer.scales["x_wgrad"].steps) == 3
    layer.eval()
    layer(x).backward(torch.randn(T, N))
    assert int(layer.scales["x_wgrad"].steps) == 3


def test_double_quantisation_reads_the_weight_under_the_scale_of_the_forward() -> None:
    twice = recipe("twice", x="e4m3fn:delayed=1", w_fprop="e4m3fn:delayed=1", requantize=True)
    layer, x, g = QuantLinear(K, N, recipe=twice, bias=False), torch.randn(T, K, requires_grad=True), torch.randn(T, N)
    layer(torch.randn(T, K))
    with torch.no_grad():
        layer.weight *= 7.0
    layer.weight.requires_grad_()
    y = layer(x)  # clips: its scale is that of the weight before
    (gradient,) = torch.autograd.grad(y, x, g)
    largest = 448.0 * float(layer.scales["w_fprop"].used)
    torch.testing.assert_close(gradient, g @ layer.weight.detach().clamp(-largest, largest), rtol=0.1, atol=0.05)
    assert float(layer.weight.detach().abs().max()) > largest


@pytest.mark.parametrize("chosen", ["fp8_row", "nvfp4", "s2fp8", STOCHASTIC], ids=str)
def test_no_rows_give_zero_gradients(chosen: str | Recipe) -> None:
    layer, x = QuantLinear(K, N, recipe=chosen), torch.zeros(0, K, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (0, K)
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


@pytest.mark.parametrize(
    "name", ["fp8_row", "fp8_deepseek", "mxfp8", "nvfp4", "int8_switchback", "mxfp4_rht_sr", STOCHASTIC]
)
def test_copies_made_from_one_read_change_no_bit(monkeypatch: pytest.MonkeyPatch, name: str | Recipe) -> None:
    """On a GPU one kernel makes both copies of X and of dY."""
    x, grad = torch.randn(T, K), torch.randn(T, N)

    def results() -> list[Tensor]:
        torch.manual_seed(0)
        layer, leaf = QuantLinear(K, N, recipe=name, seed=5), x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad)
        return [y.detach(), leaf.grad, layer.weight.grad, layer.bias.grad]

    expected = results()
    monkeypatch.setattr(operands, "one_read_pays", lambda x: True)
    for actual, before in zip(results(), expected, strict=True):
        assert torch.equal(actual, before)
