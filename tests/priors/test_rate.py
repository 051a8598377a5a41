"""Code lengths and bits per parameter, against the published tables."""

import math

import numpy as np
import pytest
import torch

from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.rate import (
    entropy_bits,
    exp_golomb_bits,
    measure_rate,
    pooled_prior,
    prior_bits,
    quantised_counts,
    quantised_masses,
)

# shape, σ/Δ, P0, entropy, then orders 0 to 4
SOURCES = [
    (0.26, 1, 0.8396, 1.0440, 1.4487, 2.2513, 3.0809, 4.0226, 5.0049),
    (0.26, 5, 0.5495, 2.7103, 2.7538, 3.1180, 3.5786, 4.2671, 5.1048),
    (0.5, 5, 0.2814, 3.7808, 4.0485, 3.9819, 4.0866, 4.4959, 5.1709),
    (1.0, 5, 0.1319, 4.2689, 5.0529, 4.6953, 4.5564, 4.7202, 5.2125),
    (1.36, 10, 0.0511, 5.3427, 6.9852, 6.3526, 5.9034, 5.7022, 5.7970),
    (2.0, 10, 0.0399, 5.3696, 7.2865, 6.6109, 6.1109, 5.8508, 5.8816),
]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_pure_sources_have_the_derived_rates(source: tuple[float, ...]) -> None:
    shape, sigma, p0, entropy, *lengths = source
    prior = GeneralizedGaussian.from_std(shape, sigma)
    masses, sizes = quantised_masses(prior, 1.0)
    assert (sizes == 1).all()
    both = torch.from_numpy(np.concatenate([masses, masses[1:]]))
    assert float(both.sum()) == pytest.approx(1, abs=1e-12)
    assert masses[0] == pytest.approx(p0, abs=6e-5)
    assert prior_bits(prior, 1.0) == pytest.approx(entropy, abs=6e-5)
    assert entropy_bits(both) == pytest.approx(prior_bits(prior, 1.0), abs=1e-10)
    for order, length in enumerate(lengths):
        assert exp_golomb_bits(both, order) == pytest.approx(length, abs=6e-5)


def test_masses_are_differences_of_the_cdf() -> None:
    prior = GeneralizedGaussian(0.7, 2.0)
    masses, _ = quantised_masses(prior, 0.5)
    edges = (np.arange(len(masses)) + 0.5) * 0.5
    assert masses[0] == pytest.approx(prior.cdf(0.25) - prior.cdf(-0.25))
    assert masses[1:20] == pytest.approx(prior.cdf(edges[1:20]) - prior.cdf(edges[:19]), abs=1e-14)


def test_a_step_beyond_all_values_costs_nothing() -> None:
    assert prior_bits(GeneralizedGaussian(2.0, 1e-6)) == 0.0
    assert prior_bits(GeneralizedGaussian(0.13, 1e-30)) < 1e-3


@pytest.mark.parametrize("shape", [0.03, 0.13, 1.36])
def test_more_values_than_can_be_listed_are_grouped(shape: float) -> None:
    """All quanta are fine here, so that the differential entropy is right."""
    prior = GeneralizedGaussian.from_std(shape, 1.0) if shape > 0.1 else GeneralizedGaussian(shape, 1e-30)
    step = float(prior.quantile(0.75)) * 2.0**-24
    masses, sizes = quantised_masses(prior, step)
    assert len(masses) < 80_000
    assert masses[0] + 2 * masses[1:].sum() == pytest.approx(1, abs=1e-12)
    assert sizes[-1] > 1000
    assert (sizes[:60_000] == 1).all()
    assert prior_bits(prior, step) == pytest.approx(prior.entropy - math.log2(step), rel=2e-3)


def test_a_fine_step_costs_what_differential_entropy_says() -> None:
    prior = GeneralizedGaussian(1.36, 0.05)
    assert prior_bits(prior, 2.0**-14) == pytest.approx(prior.entropy + 14, abs=1e-4)


@pytest.mark.parametrize("dense", [True, False])
def test_counts_are_of_rounded_values(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not dense:
        monkeypatch.setattr("narrowgauge.priors.rate._DENSE", 0)
    monkeypatch.setattr("narrowgauge.priors.rate._CHUNK", 3)
    tensors = [torch.tensor([[0.5, 1.5, -0.4], [2.6, -3.0, 0.1]]), torch.tensor(-3.2), torch.tensor([])]
    counts = quantised_counts(tensors, 1.0)  # 0 2 0 | 3 -3 0 | -3
    assert sorted(counts.tolist()) == [1, 1, 2, 3]


def test_the_rate_of_a_model_is_that_of_its_weights() -> None:
    prior = GeneralizedGaussian.from_std(1.36, 10 / 256)
    x = prior.sample(400_000, generator=torch.Generator().manual_seed(0))
    found = measure_rate([x[:1000].reshape(10, 100), x[1000:]])
    assert found.count == 400_000
    assert found.entropy == pytest.approx(5.3427, abs=0.01)
    assert found.zeros == pytest.approx(0.0511, abs=0.002)
    for order, bits in enumerate([6.9852, 6.3526, 5.9034, 5.7022, 5.7970]):
        assert found.exp_golomb[order] == pytest.approx(bits, abs=0.01)
    assert found.best_order == 3
    assert found.fixed == math.ceil(math.log2(found.distinct))
    assert found.prior is not None
    assert found.prior.shape == pytest.approx(1.36, abs=0.02)
    assert found.prior_bits == pytest.approx(found.entropy, abs=0.01)


def test_a_model_of_zeros_costs_nothing_but_a_bit_a_codeword() -> None:
    found = measure_rate([torch.zeros(10)], orders=[0])
    assert (found.entropy, found.prior_bits, found.prior, found.zeros, found.fixed) == (0.0, 0.0, None, 1.0, 0)
    assert found.exp_golomb == {0: 1.0}
    assert pooled_prior([torch.zeros(3)]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="tensors: got NaN or infinite"):
        measure_rate([torch.tensor([1.0, value, 2.0])])


def test_other_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="params: got no values"):
        measure_rate([torch.zeros(0)])
    with pytest.raises(ValueError, match=r"step: got 0\.0"):
        measure_rate([torch.ones(2)], step=0.0)
