"""Goodness of fit, against scipy and against what is known of true and false models."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.goodness import BINS, compare, ks_p_value, ks_statistic


def draws(shape: float, count: int, scale: float = 0.1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return GeneralizedGaussian(shape, scale).sample(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [0.3, 1.0, 1.36, 2.0, 3.0])
def test_the_kolmogorov_statistic_is_scipys(shape: float) -> None:
    x = draws(shape, 3000).numpy()
    for prior in (GeneralizedGaussian(shape, 0.1), GeneralizedGaussian(1.2, 0.08)):
        expected = stats.kstest(x, stats.gennorm(prior.shape, scale=prior.scale).cdf)
        found = ks_statistic(x, prior)
        assert found == pytest.approx(expected.statistic, rel=1e-9)
        assert ks_p_value(found, 3000) == pytest.approx(expected.pvalue, rel=0.02, abs=1e-6)


@pytest.mark.parametrize("shape", [0.26, 0.5, 0.85, 1.0, 1.36, 1.54, 2.0, 2.99])
def test_samples_pass_the_test_for_their_own_law(shape: float) -> None:
    x = draws(shape, 200_000, seed=1)
    found = compare(x, prior=GeneralizedGaussian(shape, 0.1), ks_values=200_000).fitted
    assert found.ks_count == 200_000
    assert found.ks_p > 0.001
    assert found.kl < 2 * BINS / (2 * 200_000 * math.log(2))


@pytest.mark.parametrize("shape", [0.5, 1.36, 2.5])
def test_likelihood_and_aic_are_scipys(shape: float) -> None:
    x = draws(shape, 2000)
    found = compare(x, "mle")
    y = x.numpy()
    prior = found.fitted.prior
    assert found.fitted.log_likelihood == pytest.approx(
        stats.gennorm(prior.shape, scale=prior.scale).logpdf(y).mean(), rel=1e-10
    )
    gaussian, laplace = stats.norm(scale=np.sqrt((y**2).mean())), stats.laplace(scale=np.abs(y).mean())
    for ours, theirs, k in ((found.gaussian, gaussian, 1), (found.laplace, laplace, 1)):
        assert ours.log_likelihood == pytest.approx(theirs.logpdf(y).mean(), rel=1e-10)
        assert ours.aic == pytest.approx(2 * k - 2 * theirs.logpdf(y).sum(), rel=1e-10)
    assert found.best == "generalized"


def test_the_divergence_is_the_integral_for_large_samples() -> None:
    x = draws(1.0, 1_000_000, 1.0)
    found = compare(x, prior=GeneralizedGaussian(1.0, 1.0))
    # KL(Laplace(1) | N(0, 2)) = E ln f - E ln g = -(1 + ln 2) + (1 + ln(4π))/2 nats
    exact = (-(1 + math.log(2)) + 0.5 * (1 + math.log(2 * math.pi * 2))) / math.log(2)
    assert found.gaussian.kl == pytest.approx(exact, abs=0.003)
    assert found.laplace.kl < 0.0005
    assert found.laplace.log_likelihood - found.gaussian.log_likelihood == pytest.approx(exact * math.log(2), abs=0.003)


def test_the_family_of_the_sample_is_the_best() -> None:
    assert compare(draws(0.7, 20_000)).best == "generalized"
    assert compare(draws(2.0, 20_000, seed=3), "mle").families.keys() == {"generalized", "gaussian", "laplace"}
    wrong = compare(draws(0.5, 20_000))
    assert wrong.gaussian.ks_p < 1e-6
    assert wrong.gaussian.kl > 0.3 > 0.02 > wrong.fitted.kl
    assert wrong.laplace.kl > wrong.fitted.kl


def test_ties_are_jumps() -> None:
    pruned = draws(1.36, 1000)
    pruned[:500] = 0.0
    found = compare(pruned)
    expected = stats.kstest(pruned.numpy(), stats.gennorm(found.fitted.prior.shape, scale=found.fitted.prior.scale).cdf)
    assert found.fitted.ks >= expected.statistic - 1e-12
    assert found.fitted.ks > 0.2
    assert found.fitted.kl > 0.2
    assert math.isfinite(found.gaussian.kl)


def test_of_many_values_every_kth_goes_into_the_statistic() -> None:
    x = draws(1.0, 1000)
    found = compare(x, ks_values=300)
    assert found.fitted.ks_count == 250
    assert found.fitted.ks == ks_statistic(x[::4].numpy(), found.fitted.prior)


def test_any_shape_and_dtype_of_sample() -> None:
    x = draws(1.36, 4000).float().reshape(40, 100)
    expected = compare(x)
    for same in (x.T, x.numpy(), x.double()):
        assert compare(same).fitted.kl == pytest.approx(expected.fitted.kl, abs=1e-9)
    assert compare(x.bfloat16()).fitted.prior.shape == pytest.approx(expected.fitted.prior.shape, rel=0.01)


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_scales_do_not_matter(factor: float) -> None:
    x = draws(1.36, 1000)
    unit, scaled = compare(x), compare(x * factor)
    for name, model in unit.families.items():
        other = scaled.families[name]
        assert other.kl == pytest.approx(model.kl, rel=1e-6)
        assert other.ks == pytest.approx(model.ks, rel=1e-6)
        assert other.log_likelihood == pytest.approx(model.log_likelihood - math.log(factor), rel=1e-9)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="x: got 3 zeros"):
        compare(torch.zeros(3))
    with pytest.raises(ValueError, match="x: got 1 NaN or infinite of 2 values"):
        compare(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="ks_values: got 0"):
        compare(torch.ones(3), ks_values=0)
