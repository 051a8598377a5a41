"""The trade-off curve: the control, what a point measures, the model afterwards, the picture."""

import copy

import pytest
import torch
from torch import nn

from narrowgauge.priors.deepshape import deepshape_
from narrowgauge.priors.rate import measure_rate
from narrowgauge.priors.trade_off import plot_trade_off, trade_off


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))


X = torch.randn(256, 32, generator=torch.Generator().manual_seed(1))
Y = model()(X).detach()


@torch.no_grad()
def loss(built):
    return float((built(X) - Y).square().mean())


def test_the_control_is_rounding_and_points_are_reshaped_models():
    built = model()
    before = copy.deepcopy(built.state_dict())
    steps = (2.0**-8, 2.0**-4)
    points = trade_off(built, loss, shapes=(0.5,), strengths=(0.5, 1.0), steps=steps, std_scale=0.7)
    assert [(p.shape_scale, p.strength, p.step) for p in points] == [
        (s, t, step) for s, t in ((1.0, 0.0), (0.5, 0.5), (0.5, 1.0)) for step in steps
    ]
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    matrices = [built[0].weight, built[2].weight]
    assert points[0].entropy == measure_rate(matrices, 2.0**-8).entropy
    with torch.no_grad():
        for weight in matrices:
            weight.copy_(torch.round(weight * 16) / 16)
    assert points[1].loss == pytest.approx(loss(built))
    deepshape_(model_again := model(), method="quantile", shape_scale=0.5, std_scale=0.7, pooled=False,
               matrices_only=True)  # fmt: skip
    with torch.no_grad():
        for weight in (model_again[0].weight, model_again[2].weight):
            weight.copy_(torch.round(weight * 256) / 256)
    assert points[4].loss == pytest.approx(loss(model_again))
    assert points[0].loss < points[2].loss < points[4].loss
    assert points[4].entropy < points[2].entropy < points[0].entropy


def test_recovery_trains_every_point_from_its_weights():
    built = model()
    seen = []

    def recover(which):
        seen.append(which[0].weight.detach().clone())
        which.zero_grad()
        (which(X) - Y).square().mean().backward()
        with torch.no_grad():
            for parameter in which.parameters():
                parameter -= 0.5 * parameter.grad

    plain = trade_off(built, loss, shapes=(0.4,), strengths=(1.0,))
    better = trade_off(built, loss, shapes=(0.4,), strengths=(1.0,), recover=recover)
    assert torch.equal(seen[0], model()[0].weight)
    assert not torch.equal(seen[1], seen[0])
    assert better[1].loss < plain[1].loss
    assert torch.equal(built[0].weight, seen[0])


def test_the_model_is_back_after_an_error():
    built = model()

    def fails(which):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        trade_off(built, fails)
    assert all(torch.equal(p, q) for p, q in zip(built.parameters(), model().parameters(), strict=True))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"^strengths: got \(0.0,\), accepted: above 0"):
        trade_off(model(), loss, strengths=(0.0,))
    with pytest.raises(ValueError, match=r"^steps: got \(\), accepted: at least one"):
        trade_off(model(), loss, steps=())
    with pytest.raises(ValueError, match=r"^points: got none"):
        plot_trade_off([], "x.png")


def test_the_picture_is_written(tmp_path):
    points = trade_off(model(), loss, shapes=(0.5, 0.8), strengths=(0.5, 1.0), steps=(2.0**-8, 2.0**-5))
    path = plot_trade_off(points, tmp_path / "new" / "curve.png", bits="exp_golomb")
    assert path.stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"^bits: got 'huffman', accepted: entropy"):
        plot_trade_off(points, tmp_path / "other.png", bits="huffman")
