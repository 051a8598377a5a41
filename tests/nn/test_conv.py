"""QuantConv1d and QuantConv2d: three products of quantised patches, gradients, and every option of nn.ConvNd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from narrowgauge import formats
from narrowgauge.kernels import fake_quantize
from narrowgauge.nn import SLOTS, recipe
from narrowgauge.nn.conv import QuantConv1d, QuantConv2d

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": 2},
    "same": {"padding": "same", "dilation": 2},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": 2, "padding_mode": "circular"},
    "replicate": {"padding": 1, "padding_mode": "replicate", "bias": False},
    "grouped": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "stride": 2},
}
RECIPES = {
    "fp8_row": "fp8_row",
    "mxfp8": "mxfp8",
    "mixed": recipe("mixed", x_fprop="int8/row", w_fprop="int8/row", g_dgrad="e5m2", w_dgrad="e4m3fn"),
}


def pair(axes: int, options: dict[str, Any], name: Any) -> tuple[Any, Any, torch.Tensor]:
    """(plain convolution, quantised one that shares its parameters, input)."""
    torch.manual_seed(0)
    plain = (nn.Conv1d if axes == 1 else nn.Conv2d)(4, 8, 3, **options)
    quantised = (QuantConv1d if axes == 1 else QuantConv2d).from_conv(plain, name)
    x = torch.randn((3, 4, 14) if axes == 1 else (2, 4, 7, 9), requires_grad=True)
    return plain, quantised, x


def operand(x: torch.Tensor, scheme: formats.Scheme | None) -> torch.Tensor:
    """What the product sees of x, in float64."""
    array = x.detach().contiguous().numpy()
    wide = array.astype(np.float64) if scheme is None else formats.quantize_reference(array, scheme).dequantize()
    return torch.from_numpy(wide)


def unfolded(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Patches [B, L, C·k] of the padded input, by strides; differentiable."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (side, hop, step) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        x = x.unfold(2 + axis, step * (side - 1) + 1, hop)[..., ::step]
    axes = len(layer.kernel_size)
    x = x.flatten(2, 1 + axes)
    return x.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_three_products_are_those_of_the_quantised_patches(name: str, option: str, axes: int) -> None:
    _, layer, x = pair(axes, OPTIONS[option], RECIPES[name])
    y = layer(x)
    g = torch.randn_like(y)
    y.backward(g)
    slots, n = layer.recipe.slots, layer.groups
    flat = unfolded(layer, x.detach()).flatten(0, 1).chunk(n, 1)
    weights = layer.weight.detach().flatten(1).chunk(n, 0)
    gradients = g.flatten(2).transpose(1, 2).flatten(0, 1).chunk(n, 1)
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    outputs, patch_gradients, weight_gradients = [], [], []
    for columns, w, dy in zip(flat, weights, gradients, strict=True):
        a, b = operand(columns, slots["x_fprop"]), operand(w, slots["w_fprop"])
        outputs.append((a @ b.t(), a.abs() @ b.abs().t()))
        a, b = operand(dy, slots["g_dgrad"]), operand(w.t(), slots["w_dgrad"])
        patch_gradients.append((a @ b.t(), a.abs() @ b.abs().t()))
        a, b = operand(dy.t(), slots["g_wgrad"]), operand(columns.t(), slots["x_wgrad"])
        weight_gradients.append((a @ b.t(), a.abs() @ b.abs().t()))
    unit = 2.0**-24 * (flat[0].shape[0] + flat[0].shape[1] + 16)
    expected, size = (torch.cat(parts, 1) for parts in zip(*outputs, strict=True))
    actual = y.detach().double().flatten(2).transpose(1, 2).flatten(0, 1)
    assert ((actual - expected - bias).abs() <= unit * (size + abs(bias))).all()
    expected, size = (torch.cat(parts, 0).view(layer.weight.shape) for parts in zip(*weight_gradients, strict=True))
    assert ((layer.weight.grad.double() - expected).abs() <= unit * size).all()
    for_input = []
    for parts in zip(*patch_gradients, strict=True):
        probe = torch.zeros(x.shape, dtype=torch.float64, requires_grad=True)
        patches = unfolded(layer, probe)
        for_input.append(torch.autograd.grad(patches, probe, torch.cat(parts, 1).view(patches.shape))[0])
    assert ((x.grad.double() - for_input[0]).abs() <= unit * for_input[1]).all()


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("option", OPTIONS)
def test_high_precision_is_the_plain_convolution(option: str, axes: int) -> None:
    plain, layer, x = pair(axes, OPTIONS[option], "fp32")
    y = layer(x)
    assert torch.equal(y, plain(x))
    # The products themselves, which the recipe that quantises nothing does not take.
    near = layer.from_conv(plain, recipe("wide", g_wgrad="e5m2"))
    torch.testing.assert_close(near(x), y)
    actual, expected = (torch.autograd.grad(out.square().sum(), x)[0] for out in (near(x), y))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_and_inputs_without_a_batch(dtype: torch.dtype) -> None:
    layer = QuantConv2d(4, 6, (3, 2), padding=1, dtype=dtype)
    x = torch.randn(4, 5, 6, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.shape == nn.Conv2d(4, 6, (3, 2), padding=1)(x.float()).shape
    assert torch.equal(y, layer(x.unsqueeze(0))[0])
    y.sum().backward()
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == dtype


def test_autocast_gives_its_dtype_and_empty_batches_work() -> None:
    layer = QuantConv1d(4, 6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4, 9)).dtype == torch.bfloat16
    assert layer(torch.randn(0, 4, 9)).shape == (0, 6, 7)


def test_groups_draw_from_streams_of_their_own_and_calls_anew() -> None:
    mine = recipe("mine", **dict.fromkeys(SLOTS, "e4m3fn/row+sr"))
    torch.manual_seed(0)
    layer = QuantConv1d(8, 8, 3, groups=2, recipe=mine)
    with torch.no_grad():
        layer.weight[4:], layer.bias[4:] = layer.weight[:4].clone(), layer.bias[:4].clone()
    x = torch.randn(1, 4, 30).repeat(1, 2, 1)
    first = layer(x)
    assert int(layer.rounding_step) == 1
    assert not torch.equal(first[:, :4], first[:, 4:])
    assert not torch.equal(layer(x), first)
    layer.rounding_step.zero_()
    assert torch.equal(layer(x), first)


def test_checkpointing_draws_the_same_again() -> None:
    mine = recipe("mine", **dict.fromkeys(SLOTS, "e4m3fn/row+sr"))
    torch.manual_seed(0)
    layer = QuantConv1d(4, 4, 3, groups=2, recipe=mine)
    x = torch.randn(2, 4, 10, requires_grad=True)
    gradients = []
    for again in (False, True):
        layer.rounding_step.zero_()
        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        gradients.append(torch.autograd.grad(y.square().sum(), layer.weight)[0])
    assert torch.equal(*gradients)


def test_a_small_network_trains_and_keeps_its_state_dict() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantConv2d(1, 8, 3, padding=1), nn.ReLU(), QuantConv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(72, 3)
    )
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    x, target = torch.randn(32, 1, 8, 8), torch.randint(0, 3, (32,))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_compiled_layer_is_one_graph() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, 3, padding=1, groups=2, recipe="fp8_row")
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_bad_input_is_named() -> None:
    layer = QuantConv2d(4, 6, 3)
    assert "recipe=fp8_row" in repr(layer)
    with pytest.raises(ValueError, match=r"input: expected 4 axes .or 3 without a batch., 4 channels"):
        layer(torch.randn(2, 3, 9, 9))
    with pytest.raises(ValueError, match="is smaller than the kernel"):
        layer(torch.randn(2, 4, 2, 9))
    with pytest.raises(TypeError, match="input: expected a floating dtype"):
        layer(torch.ones(2, 4, 9, 9, dtype=torch.int64))
    with pytest.raises(TypeError, match="conv: expected Conv2d, got Conv1d"):
        QuantConv2d.from_conv(nn.Conv1d(4, 6, 3))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_map_of_the_weight_sees_the_matrix_of_the_product(groups: int) -> None:
    torch.manual_seed(0)
    layer = QuantConv2d(4, 6, 3, groups=groups, bias=False, recipe="tetrajet_qema")
    ema = layer.weight.detach().flatten(1).clone()
    x = torch.randn(2, 4, 6, 6)
    for step in range(12):
        with torch.no_grad():
            layer.weight.mul_(1.01).add_(0.05 if step % 2 else -0.05)
        layer(x).sum().backward()
        ema.lerp_(layer.weight.detach().flatten(1), 1.0 - layer.weight_map.decay)
    assert int(layer.weight_map.steps) == 12
    assert torch.equal(layer.weight_map.ema, ema)
    rounded = layer.weight_map.values(layer.weight.detach().flatten(1)).view(layer.weight.shape)
    plain = QuantConv2d.from_conv(layer, replace(layer.recipe, weight_map=None, name="without"))
    plain.weight = nn.Parameter(rounded)
    assert torch.equal(layer.eval()(x), plain.eval()(x))
    assert not torch.equal(rounded, nearest(layer.weight))


def nearest(weight: torch.Tensor) -> torch.Tensor:
    """The weight rounded to nearest in mxfp4."""
    return fake_quantize(weight.detach().flatten(1), "mxfp4").view(weight.shape)
