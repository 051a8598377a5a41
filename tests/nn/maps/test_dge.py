"""The differentiable gradient estimator as a map."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.maps.dge import DGE, staircase_slope
from narrowgauge.nn.qat import DGEWeight

LEVELS = torch.tensor([-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def test_flat_at_levels_capped_at_borders() -> None:
    y = torch.tensor([0.0, 0.25, 5.0, 6.0, -2.5, -6.0, 7.0, 1.125])
    slope = staircase_slope(y, LEVELS, 5.0)
    expected = torch.tensor([0.2, 3.0, 3.0, 0.2, 3.0, 0.2, 0.2, 0.5**-0.8 / 5.0])
    torch.testing.assert_close(slope, expected)


def test_it_is_the_derivative_of_a_smooth_staircase() -> None:
    """f(x) = δ/2 (1 + sign(u) |u|^(1/k)), u = 2 t / δ - 1, between neighbours."""
    y = torch.linspace(0.01, 5.99, 200, dtype=torch.float64)
    levels = LEVELS.double()

    def smooth(x: torch.Tensor) -> torch.Tensor:
        upper = torch.bucketize(x, levels, right=True)
        low, gap = levels[upper - 1], levels[upper] - levels[upper - 1]
        u = 2 * (x - low) / gap - 1
        return low + gap / 2 * (1 + u.sign() * u.abs().pow(1 / 5))

    step = 1e-7
    difference = (smooth(y + step) - smooth(y - step)) / (2 * step)
    slope = staircase_slope(y, levels, 5.0)
    uncapped = slope < 3.0
    assert int(uncapped.sum()) > 150
    torch.testing.assert_close(slope[uncapped], difference[uncapped], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", ["e2m1fn/row", "nvfp4_2d", "mxfp4", "int4/row"])
def test_gradient_is_shaped_and_the_weight_untouched(scheme: str) -> None:
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(24, 48))
    g = torch.randn(24, 48)
    chosen = DGE(5.0)
    chosen.prepare(w, scheme)
    result = chosen(w)
    assert torch.equal(result, w)
    result.backward(g)
    reference = DGEWeight(scheme).bind(w)
    v = w.detach().clone().requires_grad_()
    reference(v).backward(g)
    torch.testing.assert_close(w.grad, v.grad, rtol=2e-3, atol=2e-3)
    flat = torch.nn.Parameter(w.detach().clone())
    straight = DGE(1.0)
    straight.prepare(flat, scheme)
    straight(flat).backward(g)
    assert torch.equal(flat.grad, g)


def test_what_it_cannot_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="map: 'dge0' is not dge"):
        parse_map("dge0")
    for scheme in (None, "mxfp4+sr", "bf16:static=1.0", "e2m1fn/row+h16"):
        with pytest.raises(ValueError, match="dge: w_fprop is a scheme"):
            DGE(5.0).prepare(torch.zeros(4, 4), scheme)
