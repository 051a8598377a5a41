"""Reshaping by ranks of magnitudes: the target is reached, order, signs, ties and zeros stay."""

import pytest
import torch

from narrowgauge.priors import GeneralizedGaussian, fit
from narrowgauge.priors.deepshape_quantile import reshape_quantile


def weights(shape, count, std=0.04, seed=0):
    prior = GeneralizedGaussian.from_std(shape, std)
    return prior.sample(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.5])
@pytest.mark.parametrize("shape", [0.6, 1.36, 2.0])
def test_shape_and_std_are_what_was_asked_for(shape, factor):
    x = weights(shape, 200_000)
    reshaped = reshape_quantile(x, factor, 0.7)
    rms = x.square().mean().sqrt()
    assert reshaped.fitted == fit(x)
    assert reshaped.target.shape == pytest.approx(factor * reshaped.fitted.shape)
    assert float(reshaped.values.square().mean().sqrt()) == pytest.approx(0.7 * float(rms), rel=1e-12)
    assert fit(reshaped.values, "mle").shape == pytest.approx(reshaped.target.shape, rel=0.01)


def test_the_identity_nearly_leaves_the_weights():
    x = weights(1.0, 100_000)
    values = reshape_quantile(x, 1.0, 1.0).values
    assert float((values - x).square().sum() / x.square().sum()) < 1e-3


def test_order_signs_and_zeros_stay_and_equal_weights_stay_equal():
    x = weights(1.36, 50_000).bfloat16()
    x[::10] = 0
    x[1::10] = -x[2::10]
    values = reshape_quantile(x, 0.5, 1.0).values
    assert torch.equal(values.sign(), x.double().sign())
    order = x.argsort()
    before, after = x.double()[order].diff(), values[order].diff()
    assert torch.equal(before == 0, after == 0)
    assert (after >= 0).all()
    assert torch.equal(values[1::10], -values[2::10])


def test_every_rank_gets_its_quantile():
    x = weights(2.0, 99_999)
    reshaped = reshape_quantile(x, 0.4, 1.0)
    ranks = torch.empty(x.numel(), dtype=torch.float64)
    ranks[x.abs().argsort()] = torch.arange(x.numel(), dtype=torch.float64) + 0.5
    exact = -torch.from_numpy(reshaped.target.quantile(0.5 * (1 - ranks / x.numel()).numpy())) * x.sign()
    ratio = reshaped.values / exact
    assert float(ratio.max() / ratio.min()) - 1 < 1e-5
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("values", [[0.5], [0.5, -0.5], [1.0, 1.0, 1.0], [0.0, 2.0]])
def test_few_values(values):
    x = torch.tensor(values, dtype=torch.float64)
    assert reshape_quantile(x, 0.8, 0.5).values.tolist() == pytest.approx((0.5 * x).tolist())
