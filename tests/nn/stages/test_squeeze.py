"""The shift and squeeze of S2FP8 in torch against `formats/s2fp8.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats import parse
from narrowgauge.formats.s2fp8 import squeeze_factors, squeezed, unsqueezed
from narrowgauge.formats.stages import Draw, Squeeze
from narrowgauge.nn.stages.squeeze import squeeze_after, squeeze_before

STAGE, SCHEME, DRAW = Squeeze(), parse("e5m2:static=1.0"), Draw()


def with_zeros() -> torch.Tensor:
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    x[x.abs() < 0.5] = 0.0
    x[0, 0] = -0.0
    return x


@pytest.mark.parametrize(
    "x", [with_zeros(), with_zeros().t(), 1e-12 * with_zeros(), torch.full((4,), 3.0), torch.zeros(2, 3)]
)
def test_map_and_its_inverse_are_those_of_the_definition(x: torch.Tensor) -> None:
    kept = x.clone()
    y, (alpha, beta) = squeeze_before(STAGE, x, SCHEME, DRAW)
    expected = squeeze_factors(x.numpy())
    np.testing.assert_allclose([float(alpha), float(beta)], expected, rtol=1e-12)
    np.testing.assert_allclose(y.numpy(), squeezed(x.numpy(), *expected).astype(np.float32), rtol=1e-5)
    back = squeeze_after(STAGE, y, (alpha, beta))
    np.testing.assert_allclose(back.numpy(), unsqueezed(y.numpy(), *expected).astype(np.float32), rtol=1e-5)
    assert torch.equal(torch.signbit(y), torch.signbit(x))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("worst", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_spoils_the_tensor(worst: float) -> None:
    x = with_zeros()
    x[3, 4] = worst
    y, (alpha, beta) = squeeze_before(STAGE, x, SCHEME, DRAW)
    assert torch.isnan(y).all()
    assert torch.isnan(alpha)
    assert torch.isnan(beta)
    assert torch.isnan(squeeze_after(STAGE, torch.ones(3), (alpha, beta))).all()


def test_no_elements_have_the_factors_of_zeros() -> None:
    y, (alpha, beta) = squeeze_before(STAGE, torch.empty(0, 3), SCHEME, DRAW)
    assert y.shape == (0, 3)
    assert (float(alpha), float(beta)) == (1.0, 0.0)
