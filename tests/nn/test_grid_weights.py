"""Weights on a grid: always codes times scale, unbiased steps, resumable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.formats import get, parse
from narrowgauge.nn import QuantLinear, RMSNorm, recipe
from narrowgauge.nn.grid_weights import GridWeights


def model(name: str = "dqt8") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(QuantLinear(24, 40, recipe=name), QuantLinear(40, 8, recipe=name), nn.Linear(8, 8))


@pytest.mark.parametrize("scheme", ["int8+sr", "int4/row+sr", "e4m3fn/1x8+sr", "int12/row", "q1.14:static=1.0+sr"])
def test_every_weight_is_a_code_times_a_scale(scheme: str) -> None:
    net = model()
    grid = GridWeights(net, scheme)
    for _ in range(3):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 1e-3 * torch.randn_like(parameter)
        grid.round()
    name, weight = next(iter(grid.weights.items()))
    tile, scale = parse(scheme).tile, grid.scales[name]
    rows, cols = weight.shape
    spread = scale.repeat_interleave(tile[0] or rows, 0)[:rows].repeat_interleave(tile[1] or cols, 1)[:, :cols]
    codes = (weight.detach() / spread).double().numpy()
    fmt = parse(scheme).element
    assert abs(codes - fmt.decode(fmt.encode(codes))).max() <= 1e-6 * abs(codes).max()


def test_codes_lose_nothing() -> None:
    net = model()
    grid = GridWeights(net)
    codes, scale = grid.codes("0")
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float() * scale, net[0].weight.detach())


def test_layers_without_update_are_left_alone() -> None:
    net = model()
    before = net[2].weight.detach().clone()
    GridWeights(net).round()
    assert torch.equal(net[2].weight, before)


def test_steps_are_unbiased_with_stochastic_rounding_and_lost_without() -> None:
    moved = {}
    for scheme in ("int8+sr", "int8"):
        net = model()
        grid = GridWeights(net, scheme)
        start, step = net[0].weight.detach().clone(), 0.05 * float(grid.scales["0"])
        for _ in range(100):
            with torch.no_grad():
                net[0].weight -= step * net[0].weight.sign()
            grid.round()
        inside = start.abs() > 8 * float(grid.scales["0"])
        moved[scheme] = float((start - net[0].weight.detach())[inside].abs().mean()) / (100 * step)
    assert moved["int8"] == 0.0
    assert moved["int8+sr"] == pytest.approx(1.0, abs=0.05)


def test_ternary_weights_have_three_values() -> None:
    net = model()
    grid = GridWeights(net, "ternary+sr", scale="absmean")
    values = net[0].weight.detach().unique()
    assert len(values) == 3
    assert float(values[-1]) == pytest.approx(float(grid.scales["0"].flatten()[0]))
    assert get("ternary").bits == 2


def test_the_optimizer_rounds_after_each_step_and_a_copy_resumes() -> None:
    runs = []
    for resume in (False, True):
        net = model()
        grid = GridWeights(net, seed=5)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        grid.attach(optimizer)
        for step in range(6):
            if resume and step == 3:
                state, weights = grid.state_dict(), {k: v.clone() for k, v in net.state_dict().items()}
                net = model()
                grid = GridWeights(net, seed=5)
                net.load_state_dict(weights)
                grid.load_state_dict(state)
                optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
                grid.attach(optimizer)
            optimizer.zero_grad()
            net(torch.full((4, 24), 0.1 * step)).square().sum().backward()
            optimizer.step()
        runs.append({k: v.clone() for k, v in net.state_dict().items()})
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="model: no layer"):
        GridWeights(nn.Sequential(RMSNorm(4), QuantLinear(4, 4, recipe="fp8_row")))
    with pytest.raises(ValueError, match="one float scale per tile"):
        GridWeights(model(), "mxfp4")
    with pytest.raises(ValueError, match="scale: got 'max'"):
        GridWeights(model(), scale="max")
    with pytest.raises(ValueError, match="renew"):
        GridWeights(model(), renew=-1)
    with pytest.raises(ValueError, match="state: scales"):
        GridWeights(model()).load_state_dict({"step": 1, "scales": {"x": torch.ones(1)}})
    with pytest.raises(ValueError, match="state: expected what state_dict gives, step and scales, got a"):
        GridWeights(model()).load_state_dict({"a": 1})
    with pytest.raises(ValueError, match=r"renew: .* got 0.5"):
        GridWeights(model(), renew=0.5)
    with pytest.raises(ValueError, match=r"name: no layer '0.weight' has weights on a grid; n"):
        GridWeights(model()).codes("0.weight")
    with pytest.raises(TypeError, match=r"optimizer: expected a torch.optim.Optimizer, got int"):
        GridWeights(model()).attach(3)
    assert recipe("a", every="int8", update="int8+sr").update is not None
