"""The estimators recover what the sampler put in, and the published inversion is reproduced."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from narrowgauge.priors import GeneralizedGaussian, fit, moment_ratio, shape_from_ratio
from narrowgauge.priors.fit import SHAPE_MAX, SHAPE_MIN

# shape -> tolerance of the ratio estimate at 200 000 values
TOLERANCE = {0.3: 0.03, 0.5: 0.03, 1.0: 0.03, 1.36: 0.03, 2.0: 0.06, 2.5: 0.08, 3.0: 0.12}


def draws(shape, scale=1.0, count=200_000, seed=0):
    return GeneralizedGaussian(shape, scale).sample(
        count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("method", ["ratio", "mle"])
@pytest.mark.parametrize("shape", TOLERANCE)
@pytest.mark.parametrize("scale", [0.02, 7.0])
def test_fit_recovers_shape_and_scale(method, shape, scale):
    x = draws(shape, scale)
    found = fit(x, method)
    assert found.shape == pytest.approx(shape, abs=TOLERANCE[shape])
    # Five standard deviations of the sample's root mean square.
    expected = GeneralizedGaussian(shape, scale)
    assert found.std == pytest.approx(expected.std, rel=5 * math.sqrt((expected.kurtosis - 1) / (4 * len(x))) + 0.005)
    assert found.scale == pytest.approx(scale, rel=0.3 if shape < 0.5 else 0.1)


@pytest.mark.parametrize("shape", [0.3, 1.0, 2.5])
def test_the_ratio_fit_has_exactly_the_moments_of_the_sample(shape):
    x = draws(shape, 0.1, 5000)
    found = fit(x)
    assert found.std == pytest.approx(float(x.square().mean().sqrt()), rel=1e-12)
    assert found.moment(1) == pytest.approx(float(x.abs().mean()), rel=1e-12)


@pytest.mark.parametrize("shape", [0.5, 1.36, 3.0])
def test_the_mle_is_a_maximum_of_the_likelihood(shape):
    x = draws(shape, 0.1, 3000)
    best = fit(x, "mle")
    likelihood = best.log_pdf(x.numpy()).sum()
    for factors in [(1.001, 1.0), (0.999, 1.0), (1.0, 1.001), (1.0, 0.999), (1.01, 1.01), (0.99, 0.99)]:
        other = GeneralizedGaussian(best.shape * factors[0], best.scale * factors[1])
        assert other.log_pdf(x.numpy()).sum() < likelihood


def test_the_mle_agrees_with_scipy():
    x = draws(1.2, 0.3, 2000).numpy()
    shape, _, scale = stats.gennorm.fit(x, floc=0)
    best = fit(x, "mle")
    assert best.shape == pytest.approx(shape, rel=1e-3)
    assert best.scale == pytest.approx(scale, rel=1e-3)
    assert best.log_pdf(x).sum() >= stats.gennorm(shape, scale=scale).logpdf(x).sum() - 1e-9


def test_the_mle_scatters_less_than_the_ratio_for_small_shapes():
    errors = {
        method: np.std([fit(draws(0.5, 1.0, 2000, seed), method).shape for seed in range(25)])
        for method in ("ratio", "mle")
    }
    assert errors["mle"] < 0.8 * errors["ratio"]


@pytest.mark.parametrize("shape", [0.03, 0.1, 0.5, 1.0, 1.36, 2.0, 2.99, 10.0, 60.0])
def test_the_ratio_is_inverted_exactly(shape):
    assert shape_from_ratio(moment_ratio(shape)) == pytest.approx(shape, rel=1e-9)


def test_the_ratio_saturates_at_the_ends():
    assert shape_from_ratio(1.0) == shape_from_ratio(4 / 3) == SHAPE_MAX
    assert shape_from_ratio(1e300) == SHAPE_MIN
    with pytest.raises(ValueError, match=r"ratio: got 0\.5"):
        shape_from_ratio(0.5)


@pytest.mark.parametrize(
    ("index", "shape", "ratio"),
    [
        (0, 0.10, 216.82663),
        (10, 0.20, 15.888889),
        (40, 0.50, 3.3333333),
        (90, 1.00, 2.0),
        (126, 1.36, 1.7551979),
        (140, 1.50, 1.6981400),
        (190, 2.00, 1.5707964),
        (289, 2.99, 1.4616655),
    ],
)
def test_the_table_holds_the_published_vectors(index, shape, ratio):
    assert round(100 * shape) == 10 + index
    assert moment_ratio(shape) == pytest.approx(ratio, rel=4e-6)
    assert shape_from_ratio(ratio, table=True) == shape


def test_the_table_takes_the_nearest_ratio_and_not_the_nearest_shape():
    """ρ is convex, so that halfway between two entries in ρ is nearer to the smaller shape."""
    middle = shape_from_ratio((moment_ratio(0.50) + moment_ratio(0.51)) / 2)
    assert 0.5049 < middle < 0.505
    between = (middle + 0.505) / 2  # nearer to 0.50 in shape, and to 0.51 in ρ
    assert shape_from_ratio(moment_ratio(between), table=True) == 0.51
    assert shape_from_ratio(moment_ratio(middle - 1e-6), table=True) == 0.50
    halfway = (moment_ratio(0.10) + moment_ratio(0.11)) / 2  # the difference counts, not the quotient
    assert [shape_from_ratio(halfway + d, table=True) for d in (-1e-6, 1e-6)] == [0.11, 0.10]


def test_the_table_saturates_where_it_ends():
    assert shape_from_ratio(1e6, table=True) == 0.10
    assert shape_from_ratio(4 / 3, table=True) == shape_from_ratio(1.0, table=True) == 2.99
    uniform = torch.linspace(-1, 1, 10_001)
    assert fit(uniform, table=True).shape == 2.99


def test_a_table_fit_keeps_the_std_and_rounds_the_shape():
    x = draws(1.36, 0.02)
    exact, rounded = fit(x), fit(x, table=True)
    assert rounded.shape == pytest.approx(exact.shape, abs=0.00501)
    assert rounded.shape * 100 == pytest.approx(round(rounded.shape * 100), abs=1e-9)
    assert rounded.std == pytest.approx(exact.std, rel=1e-12)


@pytest.mark.parametrize("method", ["ratio", "mle"])
@pytest.mark.parametrize("factor", [1e-300, 1e-40, 1e30, 1e300])
def test_fits_scale_with_the_data_over_the_range_of_float64(method, factor):
    x = draws(1.0, 1.0, 2000)
    unit, scaled = fit(x, method), fit(x * factor, method)
    assert scaled.shape == pytest.approx(unit.shape, rel=1e-9)
    assert scaled.scale == pytest.approx(unit.scale * factor, rel=1e-8)


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_large_samples_are_read_in_chunks_without_loss(method, monkeypatch):
    x = draws(1.0, 1.0, 10_007)
    whole = fit(x, method)
    monkeypatch.setattr("narrowgauge.priors.pooled._CHUNK", 1000)
    in_chunks = fit(x, method)
    assert in_chunks.shape == pytest.approx(whole.shape, rel=1e-9)
    assert in_chunks.scale == pytest.approx(whole.scale, rel=1e-9)


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_every_container_and_dtype_gives_the_fit_of_its_values(method):
    x = draws(1.0, 1.0, 4000).reshape(40, 100).float()
    expected = fit(x, method)
    for same in (x.T, x.double().numpy()[::-1], x.requires_grad_(), np.asfortranarray(x.detach().numpy())):
        found = fit(same, method)
        assert found.shape == pytest.approx(expected.shape, rel=1e-9)
        assert found.scale == pytest.approx(expected.scale, rel=1e-9)
    for narrow in (torch.bfloat16, torch.float16, torch.float8_e5m2):
        cast = x.detach().to(narrow)
        assert fit(cast, method) == fit(cast.double(), method)
    codes = (x.detach() * 50).round()
    assert fit(codes.to(torch.int32), method) == fit(codes.numpy(), method)
    bfloat = x.detach().numpy().astype(ml_dtypes.bfloat16)
    assert fit(bfloat, method) == fit(x.detach().bfloat16(), method)


def test_a_read_only_array_is_left_alone():
    x = np.array([1.0, -2.0, 0.5])
    x.flags.writeable = False
    assert fit(x).std == pytest.approx(math.sqrt(5.25 / 3))


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_constant_magnitudes_and_uniform_data_saturate_high(method):
    found = fit(torch.tensor([0.1, -0.1] * 500), method)
    assert found.shape == SHAPE_MAX
    assert fit(np.linspace(-1, 1, 2001), "ratio").shape > 50


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_a_few_zeros_change_little(method):
    x = draws(1.36, 1.0, 100_000)
    with_zeros = x.clone()
    with_zeros[:50] = 0.0
    assert fit(with_zeros, method).shape == pytest.approx(fit(x, method).shape, abs=0.02)


def test_sparse_data_has_a_small_shape():
    x = torch.zeros(100_000)
    x[:1000] = draws(2.0, 1.0, 1000).float()
    found = fit(x)
    assert 0.05 < found.shape < 0.2
    assert fit(x, "mle").shape == SHAPE_MIN


def test_too_sparse_data_is_refused_by_mle_only():
    one_hot = torch.eye(1, 100_000)
    assert fit(one_hot).std == pytest.approx(math.sqrt(1e-5))
    with pytest.raises(ValueError, match=r"x: got 100000 values of which 1 are not zero, too few for method 'mle'"):
        fit(one_hot, "mle")


def small_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.LayerNorm(300), nn.Linear(300, 100, bias=False))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.normal_(0.0, 0.04)
    return model


def test_a_module_is_pooled_as_published_or_by_matrices():
    model = small_model()
    pooled, matrices = fit(model), fit(model, matrices_only=True)
    everything = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert pooled.shape == pytest.approx(fit(everything).shape, rel=1e-10)
    only = fit(torch.cat([model[0].weight.reshape(-1), model[2].weight.reshape(-1)]))
    assert matrices.shape == pytest.approx(only.shape, rel=1e-10)
    assert matrices.shape == pytest.approx(2.0, abs=0.06)
    assert pooled.shape < 0.8  # the gains near one look like a heavy tail


def test_tied_parameters_count_once():
    embedding, head = nn.Embedding(50, 20), nn.Linear(20, 50, bias=False)
    head.weight = embedding.weight
    assert fit(nn.ModuleList([embedding, head])) == fit(embedding.weight)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(0), "x: got no values in Tensor"),
        (np.zeros((3, 0)), "x: got no values in ndarray"),
        (nn.ReLU(), "x: got no values in ReLU"),
        (torch.zeros(4, 4), "x: got 16 zeros"),
        (torch.tensor([1.0, math.nan, math.inf]), "x: got 2 NaN or infinite of 3 values"),
        (np.array([1.0, -math.inf]), "x: got 1 NaN or infinite of 2 values"),
        (torch.ones(3, device="meta"), "x: got a tensor on the meta device"),
    ],
)
@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_samples_that_no_distribution_fits_are_refused(x, text, method):
    with pytest.raises(ValueError, match=text):
        fit(x, method)


def test_the_parameter_with_nan_is_named():
    model = small_model()
    with torch.no_grad():
        model[1].bias[3] = math.nan
    with pytest.raises(ValueError, match=r"x: parameter '1\.bias': got 1 NaN or infinite of 300 values"):
        fit(model)


@pytest.mark.parametrize("x", [np.array([1j]), np.array(["a"]), torch.tensor([1j]), torch.tensor([True])])
def test_samples_that_are_not_real_numbers_are_refused(x):
    with pytest.raises(TypeError, match=r"x: got dtype .*accepted: real numbers"):
        fit(x)


def test_options_that_do_not_apply_are_refused():
    with pytest.raises(ValueError, match=r"method: got 'ratios'.*did you mean 'ratio'"):
        fit(torch.ones(3), "ratios")
    with pytest.raises(ValueError, match="table: got True with method 'mle'"):
        fit(torch.ones(3), "mle", table=True)
    with pytest.raises(ValueError, match="matrices_only: got True with x a Tensor"):
        fit(torch.ones(3), matrices_only=True)
