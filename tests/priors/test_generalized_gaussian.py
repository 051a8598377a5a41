"""The distribution against published constants, scipy's independent implementation, and exact limits."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from narrowgauge.priors import GeneralizedGaussian, moment_ratio

SHAPES = [0.13, 0.3, 0.5, 1.0, 1.36, 2.0, 3.0, 20.0]
SAMPLED = [0.3, 0.5, 1.0, 1.36, 2.0, 3.0]

# shape, rho, Var/scale^2, E|x|/scale, kurtosis, entropy in bits at std 1
CONSTANTS = [
    (0.13, 64.8731, 5.2358e17, 8.98378e7, 98315.9, -2.97585),
    (0.26, 8.70170, 2.62972e6, 549.734, 366.333, 0.14009),
    (0.30, 6.66105, 130619, 140.033, 173.969, 0.52258),
    (0.50, 3.33333, 120, 6, 25.2, 1.43194),
    (0.85, 2.18567, 3.71278, 1.30334, 7.71135, 1.87266),
    (1.00, 2, 2, 1, 6, 1.94270),
    (1.26, 1.80579, 1.04737, 0.761583, 4.48719, 2.00647),
    (1.36, 1.75520, 0.887481, 0.711077, 4.13673, 2.02002),
    (1.54, 1.68416, 0.706434, 0.647655, 3.67337, 2.03553),
    (2.00, 1.57080, 0.5, 0.564190, 3, 2.04710),
    (2.99, 1.46167, 0.373866, 0.505748, 2.42175, 2.02870),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("shape", "rho", "var", "mean_abs", "kurtosis", "entropy"), CONSTANTS)
def test_constants_match_the_published_table(shape, rho, var, mean_abs, kurtosis, entropy):
    unit = GeneralizedGaussian(shape, 1.0)
    assert moment_ratio(shape) == pytest.approx(rho, rel=6e-6)
    assert unit.var == pytest.approx(var, rel=1e-5)
    assert unit.moment(1) == pytest.approx(mean_abs, rel=6e-6)
    assert unit.kurtosis == pytest.approx(kurtosis, rel=6e-6)
    assert GeneralizedGaussian.from_std(shape, 1.0).entropy == pytest.approx(entropy, abs=6e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_density_and_distribution_agree_with_scipy(shape, scale):
    ours, theirs = GeneralizedGaussian(shape, scale), stats.gennorm(shape, scale=scale)
    p = np.concatenate([np.linspace(0.01, 0.99, 99), [1e-12, 1e-6, 1 - 1e-6]])
    x = theirs.ppf(p)
    np.testing.assert_allclose(ours.pdf(x), theirs.pdf(x), rtol=1e-12)
    np.testing.assert_allclose(ours.log_pdf(x), theirs.logpdf(x), rtol=1e-12)
    np.testing.assert_allclose(ours.cdf(x), theirs.cdf(x), rtol=1e-12)
    np.testing.assert_allclose(ours.quantile(p), x, rtol=1e-11, atol=1e-13 * ours.std)
    assert ours.entropy == pytest.approx(float(theirs.entropy()) / math.log(2), rel=1e-12, abs=1e-12)
    assert ours.var == pytest.approx(theirs.var(), rel=1e-12)


@pytest.mark.parametrize("shape", [*SHAPES, 300.0])
def test_quantile_inverts_cdf_from_the_centre_to_the_tails(shape):
    prior = GeneralizedGaussian(shape, 3.0)
    p = np.array([1e-300, 1e-30, 1e-9, 0.1, 0.4999, 0.5, 0.5 + 1e-9, 0.7, 0.999])
    np.testing.assert_allclose(prior.cdf(prior.quantile(p)), p, rtol=1e-11)


@pytest.mark.parametrize("shape", [0.3, 0.5, 1.0, 1.36, 2.0, 3.0, 20.0])
def test_quantiles_next_to_the_median_keep_their_digits(shape):
    """There x = (p - 1/2) / f(0), with f(0) = 1 / (2 α Γ(1 + 1/ν))."""
    prior = GeneralizedGaussian(shape, 1.0)
    distance = 2.0**-51 / float(prior.pdf(0.0))
    np.testing.assert_allclose(prior.quantile([0.5 - 2.0**-51, 0.5 + 2.0**-51]), [-distance, distance], rtol=1e-4)


def test_large_shapes_are_uniform_where_the_power_underflows():
    """(|x|/α)^ν is below the range of float64 here, and cdf(x) still is 1/2 + x / (2 α Γ(1 + 1/ν))."""
    prior = GeneralizedGaussian(300.0, 1.0)
    x = np.array([-1e-3, 1e-9, 1e-3, 0.02])
    np.testing.assert_allclose(prior.cdf(x), 0.5 + x / (2.0 * math.gamma(1 + 1 / 300)), rtol=1e-15)
    np.testing.assert_allclose(prior.quantile(prior.cdf(x)), x, rtol=0, atol=1e-15)


def test_the_family_contains_laplace_and_gauss():
    x = np.linspace(-5, 5, 41)
    np.testing.assert_allclose(GeneralizedGaussian(1, 2).cdf(x), stats.laplace(scale=2).cdf(x), rtol=1e-13)
    gauss = GeneralizedGaussian.from_std(2, 1.5)
    assert gauss.scale == pytest.approx(1.5 * math.sqrt(2), rel=1e-15)
    np.testing.assert_allclose(gauss.pdf(x), stats.norm(scale=1.5).pdf(x), rtol=1e-13)


def test_ends_of_the_line_have_their_limits():
    prior = GeneralizedGaussian(1.3, 2.0)
    np.testing.assert_array_equal(prior.cdf([-np.inf, 0.0, np.inf]), [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(prior.pdf([-np.inf, np.inf, 1e200]), [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(prior.quantile([0.0, 0.5, 1.0]), [-np.inf, 0.0, np.inf])
    assert np.isnan(prior.cdf(np.nan))


@pytest.mark.parametrize("p", [-0.5, 0.0, 1.0, 2.5])
def test_moments_equal_their_integrals(p):
    prior = GeneralizedGaussian(0.8, 0.3)
    integral, _ = integrate.quad(lambda x: 2 * x**p * float(prior.pdf(x)), 0, 60, limit=300, points=[1e-3, 0.1, 1])
    assert prior.moment(p) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_std_is_the_root_of_var_and_from_std_inverts_it(shape):
    prior = GeneralizedGaussian.from_std(shape, 0.042)
    assert prior.std == pytest.approx(0.042, rel=1e-13)
    assert prior.var == pytest.approx(0.042**2, rel=1e-12)


def test_values_beyond_float64_are_infinite_or_refused():
    assert GeneralizedGaussian(0.009, 1.0).var == math.inf
    with pytest.raises(ValueError, match=r"shape: got 0\.005, whose scale at std 1 is below the range"):
        GeneralizedGaussian.from_std(0.005, 1)


@pytest.mark.parametrize("shape", SAMPLED)
@pytest.mark.parametrize("seed", [1, 2])
def test_samples_follow_the_law(shape, seed):
    x = GeneralizedGaussian(shape, 0.7).sample(200_000, generator=seeded(seed), dtype=torch.float64).numpy()
    assert stats.kstest(x, stats.gennorm(shape, scale=0.7).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [0.05, 0.13, 50.0])
def test_samples_of_extreme_shapes_follow_the_law(shape):
    prior = GeneralizedGaussian.from_std(shape, 1.0)
    x = prior.sample(100_000, generator=seeded(3), dtype=torch.float64).numpy()
    assert stats.kstest(prior.cdf(x), "uniform").pvalue > 1e-3


def test_samples_are_uncorrelated_and_signs_independent_of_magnitudes():
    x = GeneralizedGaussian(1.0, 1.0).sample(200_000, generator=seeded(5), dtype=torch.float64)
    pairs = torch.stack([x[:-1], x[1:], x[:-1].abs(), x[1:].abs(), x[:-1].sign()])
    off_diagonal = torch.corrcoef(pairs)[[0, 2, 2, 3], [1, 3, 4, 4]]
    assert off_diagonal.abs().max() < 5 / math.sqrt(200_000)


@pytest.mark.parametrize("shape", [0.5, 1.36, 2.0])
def test_the_largest_of_many_samples_is_where_the_tail_ends(shape):
    """The maximum of N draws lies between two quantiles of its own law, P(max < m) = F(m)^N."""
    prior = GeneralizedGaussian(shape, 1.0)
    n = 2_000_000
    largest = float(prior.sample(n, generator=seeded(6), dtype=torch.float64).abs().max())
    outside = 2.0 * float(prior.cdf(-largest))
    assert 1e-3 < n * outside < 8.0


def test_samples_are_reproducible_and_leave_the_global_generator_alone():
    prior = GeneralizedGaussian(0.5, 1.0)
    state = torch.get_rng_state()
    first, second = prior.sample((3, 1000), generator=seeded(7)), prior.sample(3000, generator=seeded(7))
    assert torch.equal(first.reshape(-1), second)
    assert not torch.equal(second, prior.sample(3000, generator=seeded(8)))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
def test_a_cpu_generator_gives_a_gpu_the_same_samples():
    prior = GeneralizedGaussian(0.8, 1.0)
    x = prior.sample(5000, generator=seeded(7), device="cuda")
    assert x.is_cuda
    assert torch.equal(x.cpu(), prior.sample(5000, generator=seeded(7)))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SAMPLED)
def test_samples_drawn_on_a_gpu_follow_the_law_and_their_generator(shape):
    first, second = (
        GeneralizedGaussian(shape, 0.7).sample(
            200_000, generator=torch.Generator("cuda").manual_seed(4), dtype=torch.float64
        )
        for _ in range(2)
    )
    assert first.is_cuda
    assert torch.equal(first, second)
    assert stats.kstest(first.cpu().numpy(), stats.gennorm(shape, scale=0.7).cdf).pvalue > 1e-3


def test_samples_continue_along_the_generator():
    generator = seeded(9)
    prior = GeneralizedGaussian(2.0, 1.0)
    assert not torch.equal(prior.sample(64, generator=generator), prior.sample(64, generator=generator))


def test_samples_without_a_generator_follow_the_global_seed():
    prior = GeneralizedGaussian(2.0, 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = prior.sample(10)
        torch.manual_seed(3)
        assert torch.equal(first, prior.sample(10))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_samples_are_rounded_to_the_asked_dtype(dtype):
    exact = GeneralizedGaussian(1.0, 1.0).sample(1000, generator=seeded(), dtype=torch.float64)
    x = GeneralizedGaussian(1.0, 1.0).sample(1000, generator=seeded(), dtype=dtype)
    assert x.dtype == dtype
    assert torch.equal(x, exact.to(dtype))


@pytest.mark.parametrize(
    ("size", "shape"), [((), ()), (0, (0,)), ((0, 4), (0, 4)), (1, (1,)), (torch.Size([2, 3]), (2, 3))]
)
def test_samples_have_the_asked_size(size, shape):
    x = GeneralizedGaussian(1.0, 1.0).sample(size, generator=seeded())
    assert tuple(x.shape) == shape
    assert x.dtype == torch.get_default_dtype()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("field", ["shape", "scale"])
def test_fields_that_are_no_positive_numbers_are_refused(field, bad):
    with pytest.raises(ValueError, match=f"{field}: got {bad}, accepted: finite numbers > 0"):
        GeneralizedGaussian(**{"shape": 1.0, "scale": 1.0, field: bad})
    with pytest.raises(TypeError, match=f"{field}: got str"):
        GeneralizedGaussian(**{"shape": 1.0, "scale": 1.0, field: "1"})


def test_bad_arguments_are_refused_by_name():
    prior = GeneralizedGaussian(1.0, 1.0)
    with pytest.raises(ValueError, match=r"p: got \[0\.5, 1\.1\], accepted: probabilities"):
        prior.quantile([0.5, 1.1])
    with pytest.raises(ValueError, match="p: got -1, accepted: numbers > -1"):
        prior.moment(-1)
    with pytest.raises(TypeError, match=r"dtype: got torch\.int8, accepted: floating-point"):
        prior.sample(3, dtype=torch.int8)
    with pytest.raises(ValueError, match="std: got 0"):
        GeneralizedGaussian.from_std(1.0, 0)


def test_the_distribution_is_a_value():
    assert GeneralizedGaussian(2, 1) == GeneralizedGaussian(np.float32(2.0), 1.0)
    assert len({GeneralizedGaussian(2, 1), GeneralizedGaussian(2.0, 1.0)}) == 1
    with pytest.raises(AttributeError):
        GeneralizedGaussian(2.0, 1.0).scale = 3.0
