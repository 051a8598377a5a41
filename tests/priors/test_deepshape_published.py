"""The published histogram specification: against a plain transcription, its expected table, and its traps."""

import math

import pytest
import torch

from narrowgauge.priors import GeneralizedGaussian, fit
from narrowgauge.priors.deepshape import deepshape
from narrowgauge.priors.deepshape_published import reshape_published, thin_count

SIGMA = 0.0425
# Of 10^7 weights with adj_minnum 100: P, ν, α', std, ν of all afterwards, entropy and Exp-Golomb length before and
# after at step 2^-8, relative error, correlation. P of 10^6 with 10 last.
TABLE = {
    1.0: (1264, 1.12, 0.02025, 0.0365, 0.83, 5.387, 5.088, 6.844, 6.255, 0.0255, 0.9968, 1203),
    1.36: (1177, 1.46, 0.02815, 0.0330, 1.06, 5.465, 5.035, 7.196, 6.343, 0.0582, 0.9951, 1053),
    2.0: (1046, 2.09, 0.03637, 0.0296, 1.51, 5.491, 4.943, 7.501, 6.421, 0.0992, 0.9954, 1026),
}


def weights(shape, count, seed=0):
    prior = GeneralizedGaussian.from_std(shape, SIGMA)
    return prior.sample(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def transcription(x, shape_scale, std_scale, bits, thin):
    """The steps of the module one weight at a time."""
    unit = 2**bits
    q = [round(value * unit) for value in x.tolist()]  # Python's round is to even
    count = {}
    for value in q:
        count[value] = count.get(value, 0) + 1
    edge = 1
    while count.get(edge, 0) > thin:
        edge += 1
    cut = x[x.double().abs() <= edge / unit]
    prior = fit(cut, table=True)
    center = int(float(cut.double().mean()) * unit)
    alpha, nu = std_scale * prior.scale * unit, shape_scale * prior.shape
    order = sorted((i for i in range(len(q)) if abs(q[i] - center) <= edge), key=lambda i: q[i])
    density = [math.exp(-((abs(d) / alpha) ** nu)) for d in range(-edge, edge + 1)]
    place = 0
    for d, weight in zip(range(-edge, edge + 1), density, strict=True):
        for _ in range(math.floor(len(order) * (weight / math.fsum(density)))):
            q[order[place]] = center + d
            place += 1
    return torch.tensor(q, dtype=torch.float64) / unit, edge


@pytest.mark.parametrize(("bits", "thin", "mean"), [(8, 3, 0.0), (9, 8, 0.01), (8, 1, -0.02)])
def test_it_is_the_published_procedure(bits, thin, mean):
    x = weights(1.36, 30_000) + mean
    expected, edge = transcription(x, 0.8, 0.6, bits, thin)
    reshaped = reshape_published(x, 0.8, 0.6, bits, thin)
    assert reshaped.edge == edge
    assert torch.equal(reshaped.values, expected)


def check_table(shape, count, thin, edge_column, tolerance):
    x = weights(shape, count)
    _, nu, alpha, std, nu_after, h0, h1, eg0, eg1, error, correlation = TABLE[shape][:11]
    y, report = deepshape(x, adj_minnum=thin)
    (group,) = report.groups
    assert group.edge == pytest.approx(TABLE[shape][edge_column], rel=0.15)
    assert group.fitted.shape == pytest.approx(nu, abs=0.03 * tolerance)
    assert group.target.shape == pytest.approx(0.8 * group.fitted.shape)
    assert group.target.scale == pytest.approx(alpha, rel=0.02 * tolerance)
    assert float(y.std()) == pytest.approx(std, rel=0.02)
    assert fit(y).shape == pytest.approx(nu_after, abs=0.02 + 0.03 * tolerance)
    assert report.before.entropy == pytest.approx(h0, rel=0.005)
    assert report.after.entropy == pytest.approx(h1, rel=0.01)
    assert report.before.exp_golomb[0] == pytest.approx(eg0, rel=0.005)
    assert report.after.exp_golomb[0] == pytest.approx(eg1, rel=0.01)
    assert group.relative_mse == pytest.approx(error, rel=0.05 * tolerance)
    assert group.correlation == pytest.approx(correlation, abs=0.002 * tolerance)
    assert group.std_ratio == pytest.approx(
        float(y.double().square().mean().sqrt() / x.double().square().mean().sqrt())
    )
    _, same = deepshape(x, shape_scale=1.0, std_scale=1.0, adj_minnum=thin)
    assert same.groups[0].relative_mse < 0.0015 * tolerance


@pytest.mark.parametrize("shape", TABLE)
def test_expected_table_at_a_million_weights(shape):
    check_table(shape, 10**6, 10, 11, 3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", TABLE)
def test_expected_table_at_ten_million_weights(shape):
    check_table(shape, 10**7, 100, 0, 1)


def test_order_is_kept_but_for_the_left_overs_and_the_largest_keep_their_codes():
    x = weights(1.36, 200_000)
    reshaped = reshape_published(x, 0.8, 0.6, 11, 5)
    q = torch.round(x.double() * 2**11)
    order = q.argsort(stable=True)
    outside = q.abs() > reshaped.edge + 1
    assert torch.equal(reshaped.values[outside], q[outside] / 2**11)
    inside = order[(q.abs() < reshaped.edge)[order]]
    assert (reshaped.values[inside][: -2 * reshaped.edge - 1].diff() >= 0).all()
    kept = (reshaped.values == q / 2**11)[inside]
    assert kept[-5:].all()
    assert not kept[: len(kept) // 4].any()


def test_thin_count():
    assert [thin_count("auto", n) for n in (10, 10**6, 10**8)] == [1, 10, 1000]
    assert thin_count(7, 10) == 7
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=rf"^adj_minnum: got {wrong}, which finds no end"):
            thin_count(wrong, 10)
    for wrong in (2.5, True, "all"):
        with pytest.raises(TypeError, match=r"^adj_minnum: got .*, accepted: an integer >= 1"):
            thin_count(wrong, 10)


def test_the_released_threshold_on_few_weights_is_refused():
    # 1000 of 10^6 would cut at half a standard deviation, where everything looks uniform.
    with pytest.raises(ValueError, match=r"^adj_minnum: got 1000 for 1000000 values of x, .*accepted: at least 90%"):
        reshape_published(weights(1.36, 10**6), 0.8, 0.6, adj_minnum=1000)


def test_a_small_tensor_is_refused_and_a_coarser_grid_accepts_it():
    x = weights(2.0, 5000)
    with pytest.raises(ValueError, match=r"^adj_minnum: got 1 for 5000 values of small"):
        reshape_published(x, 0.8, 0.6, name="small")
    assert reshape_published(x, 0.8, 0.6, 8).edge > 15


def test_grids_that_do_not_fit_are_refused():
    x = weights(1.36, 10_000)
    with pytest.raises(
        ValueError, match=r"^fraction_bits: got 4, with which the histogram of x ends \d steps from zero"
    ):
        reshape_published(x, 0.8, 0.6, 4)
    with pytest.raises(ValueError, match=r"^fraction_bits: got 13, with which x exceeds 2\^30 steps"):
        reshape_published(torch.cat([x, torch.tensor([1e6])]), 0.8, 0.6)
