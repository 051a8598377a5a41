"""Learned steps behind a rotation: values on the grid, LSQ's gradients, and what the rotation is for."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.maps.learned_step import LearnedStep
from narrowgauge.nn.stages.rotation import rotated
from narrowgauge.numerics import sqnr_db


def test_values_are_codes_times_the_step_in_the_rotated_basis() -> None:
    torch.manual_seed(0)
    w = torch.randn(24, 64)
    step = LearnedStep(4, 32)
    step.prepare(w, None)
    codes = (rotated(step(w), 32, None) / step.step).detach()
    assert float((codes - codes.round()).abs().max()) < 1e-4
    assert codes.round().min() >= -8
    assert codes.round().max() <= 7


def test_gradients_are_those_of_lsq() -> None:
    torch.manual_seed(0)
    v = torch.randn(8, 16, requires_grad=True)
    quantizer = LearnedStep(3)
    quantizer.prepare(v.detach(), None)
    upstream = torch.randn(8, 16)
    quantizer(v).backward(upstream)
    y = v.detach() / quantizer.step.detach()
    inside = (y > -4) & (y < 3)
    slope = torch.where(inside, y.round() - y, y.clamp(-4, 3))
    expected = float((upstream * slope).sum()) / (128 * 3) ** 0.5
    assert v.grad is not None
    assert torch.equal(v.grad != 0, inside & (upstream != 0))
    torch.testing.assert_close(v.grad[inside], upstream[inside])
    assert quantizer.step.grad is not None
    assert float(quantizer.step.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("features", [64, 48, 7])
def test_blocks_divide_the_features(features: int) -> None:
    x = torch.randn(5, features)
    quantizer = LearnedStep(8, 32)
    quantizer.prepare(x, None)
    assert quantizer(x).shape == x.shape


def best(text: str, x: torch.Tensor) -> torch.Tensor:
    """x under the step with the least error, which is where learning would end at best."""
    quantizer = parse_map(text).eval()
    quantizer.begun.fill_(True)
    errors = {}
    with torch.no_grad():
        for power in range(-24, 24):
            quantizer.step.fill_(2.0 ** (power / 4))
            errors[power] = float((quantizer(x) - x).square().sum())
        quantizer.step.fill_(2.0 ** (min(errors, key=lambda power: errors[power]) / 4))
        return quantizer(x)


def test_rotation_keeps_int4_away_from_outliers() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(64, 128), torch.randn(32, 128)
    loud = [7, 40, 70, 100]
    x[:, loud] *= 20.0
    usual = [channel for channel in range(128) if channel not in loud]
    plain, turned = (best(text, x) for text in ("lsq4", "lsq4h32"))
    assert float(sqnr_db(plain[:, usual], x[:, usual])) < 1.0
    assert float(sqnr_db(turned[:, usual], x[:, usual])) > 7.0
    products = [float(sqnr_db(best(text, x) @ best(text, w).t(), x @ w.t())) for text in ("lsq4", "lsq4h32")]
    assert products[1] > products[0] + 5.0


def test_input_begins_with_the_first_call_in_training() -> None:
    quantizer = parse_map("lsq4h32").eval()
    with pytest.raises(RuntimeError, match="training mode"):
        quantizer(torch.ones(2, 4))
    quantizer.train()(torch.full((2, 1), 3.0))
    assert quantizer.step.item() == pytest.approx(2 * 3.0 / 7**0.5)
    quantizer.eval()(torch.ones(2, 1))
    fresh = parse_map("lsq4h32").eval()
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh(torch.ones(2, 1)), quantizer(torch.ones(2, 1)))
    quantizer.load_state_dict(parse_map("lsq4h32").state_dict())
    with pytest.raises(RuntimeError, match="training mode"):
        quantizer(torch.ones(2, 4))


@pytest.mark.parametrize("text", ["lsq1", "lsq9", "lsq4h3"])
def test_texts_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lsq"):
        parse_map(text)
