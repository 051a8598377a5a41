"""Q-EMA: weights that swing about a border keep their code."""

from __future__ import annotations

import copy

import pytest
import torch

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn import QuantLinear, get_recipe
from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.maps.qema import WARM_UP, QEma, towards


def swinging(decay: float, steps: int = 60) -> tuple[int, int]:
    """How often a code changes with the map, and with nearest rounding, while weights swing about a border."""
    torch.manual_seed(0)
    layer = QuantLinear(32, 16, bias=False, recipe="tetrajet_qema")
    layer.weight_map.decay = decay
    border = torch.full((16, 32), 1.25)
    border[:, 0] = 6.0
    noise = torch.linspace(0.02, 0.1, 31)
    flips = [0, 0]
    last: list[torch.Tensor] = []
    for step in range(steps):
        with torch.no_grad():
            layer.weight.copy_(border)
            layer.weight[:, 1:] += noise * (1.0 if step % 2 else -1.0)
        layer(torch.zeros(1, 32))
        now = [layer.weight_map.values(layer.weight), fake_quantize(layer.weight.detach(), "mxfp4")]
        if step > WARM_UP:
            flips = [count + int((a != b).sum()) for count, a, b in zip(flips, now, last, strict=True)]
        last = now
    return flips[0], flips[1]


def test_codes_flip_less() -> None:
    with_average, nearest = swinging(0.998)
    assert nearest > 20_000
    assert with_average < 0.02 * nearest


def test_without_memory_it_is_nearest_rounding() -> None:
    with_average, nearest = swinging(0.0)
    assert with_average == nearest


def test_the_nearer_neighbour_to_the_average() -> None:
    levels = torch.tensor([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
    y = torch.tensor([0.6, 0.6, 0.6, -0.6, -0.6, 0.5, 0.1, 2.5, -0.1])
    average = torch.tensor([0.74, 0.76, 9.0, -0.76, 9.0, 9.0, -5.0, -9.0, -0.26])
    expected = torch.tensor([0.5, 1.0, 1.0, -1.0, -0.5, 0.5, 0.0, 2.0, -0.5])
    assert torch.equal(towards(y, average, levels), expected)


def test_the_slot_finds_the_codes_again() -> None:
    torch.manual_seed(0)
    w = torch.randn(64, 96)
    chosen = QEma(0.9)
    chosen.prepare(w, "mxfp4")
    chosen.ema.copy_(w + 0.2 * torch.randn(64, 96))
    values = chosen.values(w)
    assert torch.equal(fake_quantize(values, "mxfp4"), values)
    assert not torch.equal(values, fake_quantize(w, "mxfp4"))
    assert torch.equal(fake_quantize(values.bfloat16(), "mxfp4").float(), values)


def test_the_average_moves_in_training_alone_and_warms_up() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(32, 16, recipe="tetrajet_qema")
    start = layer.weight_map.ema.clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
        layer(torch.randn(2, 32))
    layer.eval()(torch.randn(2, 32))
    assert torch.equal(layer.weight_map.ema, start)
    layer.train()
    x = torch.randn(2, 32)
    for _ in range(WARM_UP - 1):
        layer(x)
    assert int(layer.weight_map.steps) == WARM_UP - 1
    assert layer.weight_map(layer.weight) is not layer.weight  # the tenth
    assert int(layer.weight_map.steps) == WARM_UP
    decayed = 0.9983**WARM_UP
    torch.testing.assert_close(layer.weight_map.ema, start * decayed + layer.weight.detach() * (1 - decayed))


def test_the_gradient_goes_straight_through() -> None:
    w = torch.nn.Parameter(torch.randn(16, 32))
    chosen = QEma(0.9)
    chosen.prepare(w, "mxfp4")
    chosen.steps.fill_(WARM_UP)
    g = torch.randn(16, 32)
    chosen(w).backward(g)
    assert torch.equal(w.grad, g)


def test_it_is_saved_restored_and_stays_float32() -> None:
    torch.manual_seed(0)
    layer = QuantLinear(32, 16, recipe="tetrajet_qema")
    for _ in range(WARM_UP + 2):
        with torch.no_grad():
            layer.weight.add_(0.05 * torch.randn_like(layer.weight))
        layer(torch.randn(2, 32))
    other = QuantLinear(32, 16, recipe=get_recipe("tetrajet_qema"))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 32)
    assert torch.equal(layer.eval()(x), other.eval()(x))
    narrow = copy.deepcopy(layer).bfloat16()
    assert narrow.weight_map.ema.dtype == torch.float32
    assert torch.equal(narrow.weight_map.ema, layer.weight_map.ema)


def test_what_it_cannot_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="map: 'qema1' is not qema"):
        parse_map("qema1")
    with pytest.raises(ValueError, match="qema: w_fprop has power-of-two scales"):
        QEma(0.9).prepare(torch.zeros(4, 4), "e2m1fn/row")
    with pytest.raises(ValueError, match="qema: goes with weights of two axes"):
        QEma(0.9).prepare(torch.zeros(4, 4, 3), "mxfp4")
