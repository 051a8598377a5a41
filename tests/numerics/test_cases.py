"""The named inputs are what their names say, and the distributions have the moments of theirs."""

import re

import numpy as np
import pytest
from scipy import stats
from scipy.special import gamma

from narrowgauge.numerics import Distribution, distribution, distribution_help, hard_cases

CASES = hard_cases()
TINY, SMALL, HUGE = (getattr(np.finfo(np.float32), n) for n in ("smallest_subnormal", "smallest_normal", "max"))


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_float32_and_finite_unless_its_name_says_otherwise(name):
    x = CASES[name]
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert x.ndim <= 2
    assert np.isnan(x).any() == ("nan" in name)
    assert np.isinf(x).any() == ("inf" in name)


def test_cases_are_constant_and_independent_of_what_a_caller_wrote():
    hard_cases()["prime_sized"][:] = 0.0
    again = hard_cases()
    for name, x in CASES.items():
        np.testing.assert_array_equal(again[name].view(np.uint32), x.view(np.uint32))


def test_cases_have_awkward_sizes():
    sizes = {x.size for x in CASES.values()}
    assert {0, 1, 13 * 97} <= sizes
    assert {x.ndim for x in CASES.values()} == {0, 1, 2}
    assert CASES["empty_columns"].shape == (4, 0)


def test_cases_reach_both_ends_of_float32():
    assert np.abs(CASES["huge"]).max() == HUGE
    assert np.abs(CASES["smallest_numbers"]).min() == TINY
    assert set(np.abs(CASES["huge_beside_tiny"])) >= {HUGE, TINY, np.float32(0)}
    assert np.abs(CASES["subnormal"]).min() > 0
    assert np.abs(CASES["subnormal"]).max() < SMALL


def test_powers_of_two_and_their_neighbours():
    mantissa, exponent = np.frexp(CASES["powers_of_two"])
    assert set(np.abs(mantissa)) == {0.5}
    assert len(set(exponent)) == 253
    below, middle, above = CASES["powers_of_two_neighbours"][: 3 * 253].reshape(-1, 3).T
    np.testing.assert_array_equal(middle, CASES["powers_of_two"][:253])
    np.testing.assert_array_equal(np.nextafter(below, np.float32(np.inf)), middle)
    np.testing.assert_array_equal(np.nextafter(above, np.float32(0)), middle)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_ties_lie_halfway_between_two_numbers_of_that_many_bits(bits):
    """With even and odd lower neighbours, which tell ties-to-even, ties-away and ties-to-odd apart."""
    significand = np.frexp(CASES["ties"].astype(np.float64))[0] * 2.0**bits
    lower = np.floor(np.abs(significand)[np.abs(significand) % 1.0 == 0.5])
    assert {0.0, 1.0} <= set(lower % 2)


def test_the_outlier_channel_is_one_column():
    column_amax = np.abs(CASES["outlier_channel"]).max(axis=0)
    assert np.argmax(column_amax) == 7
    assert column_amax[7] > 100 * np.sort(column_amax)[-2]


def test_mixed_magnitudes_span_the_exponents():
    x = np.abs(CASES["mixed_magnitudes"].astype(np.float64))
    assert np.log2(x.max() / x.min()) > 240


@pytest.mark.parametrize("name", list(Distribution))
def test_draws_are_reproducible_float32_of_the_asked_shape(name):
    first, second = (distribution(name, (31, 7), np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (31, 7)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    assert distribution(name, 0, np.random.default_rng(0)).shape == (0,)
    assert not np.array_equal(first, distribution(name, (31, 7), np.random.default_rng(4)))


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("normal", stats.norm()),
        ("laplace", stats.laplace()),
        ("student_t3", stats.t(3)),
        ("uniform", stats.uniform(-1, 2)),
        ("student_t5", stats.t(5)),
        ("gg0.5", stats.gennorm(0.5, scale=120.0**-0.5)),
        ("gg1", stats.laplace(scale=0.5**0.5)),
        ("gg2", stats.norm()),
        ("gg8", stats.gennorm(8, scale=(gamma(1 / 8) / gamma(3 / 8)) ** 0.5)),
    ],
)
def test_draws_follow_the_law_of_their_name(name, law):
    x = distribution(name, 20_000, np.random.default_rng(11))
    assert stats.kstest(x.astype(np.float64), law.cdf).pvalue > 1e-3


def test_log_uniform_draws_are_uniform_in_the_exponent_and_the_sign():
    x = distribution("log_uniform", 20_000, np.random.default_rng(11)).astype(np.float64)
    assert stats.kstest(np.log2(np.abs(x)), stats.uniform(-16, 32).cdf).pvalue > 1e-3
    assert stats.binomtest(int((x > 0).sum()), x.size).pvalue > 1e-3


def test_a_lognormal_has_a_random_sign_and_the_deviation_that_it_is_given():
    x = distribution("lognormal2.5", 20_000, np.random.default_rng(11)).astype(np.float64)
    assert stats.kstest(np.log(np.abs(x)), stats.norm(0, 2.5).cdf).pvalue > 1e-3
    assert stats.binomtest(int((x > 0).sum()), x.size).pvalue > 1e-3


def test_outliers_are_a_share_of_a_gaussian_made_larger():
    x = distribution("outliers0.05x1e3", 20_000, np.random.default_rng(11)).astype(np.float64)
    large = np.abs(x) > 6.0  # of 1000 * N(0, 1), all but 0.5 %
    assert 0.04 < large.mean() < 0.06
    assert stats.kstest(x[~large], stats.norm().cdf).pvalue > 1e-3


@pytest.mark.parametrize(("columns", "expected"), [(256, 8), (64, 2), (5, 1)])
def test_outlier_channels_are_whole_columns_at_least_one(columns, expected):
    x = distribution(f"channels{1 / 32}x100", (512, columns), np.random.default_rng(11))
    deviation = x.std(axis=0)
    assert int((deviation > 50).sum()) == expected
    assert int((deviation < 2).sum()) == columns - expected


def test_rows_differ_in_magnitude_by_the_deviation_that_they_are_given():
    x = distribution("rows3", (4000, 64), np.random.default_rng(11)).astype(np.float64)
    magnitudes = np.log(x.std(axis=1))
    assert magnitudes.std() == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize(
    "name", ["gg0.001", "gg0.1", "gg1e3", "lognormal100", "student_t0.1", "rows80", "outliers1x1e38"]
)
def test_draws_from_the_heaviest_tails_are_finite(name):
    assert np.isfinite(distribution(name, (64, 64), np.random.default_rng(0))).all()


def test_draws_have_any_shape():
    for text in distribution_help():
        name = text.split("[")[0]
        assert distribution(name, (), np.random.default_rng(0)).shape == ()
        assert distribution(name, (0, 4), np.random.default_rng(0)).shape == (0, 4)


def test_the_help_names_every_family_with_its_parameters_and_defaults():
    table = distribution_help()
    assert table["outliers[share]x[factor]"].endswith("by default share 0.001, factor 50")
    assert {text.split("[")[0] for text in table} == {name.removesuffix("3") for name in Distribution}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gg0", "got shape 0 in 'gg0', accepted: finite numbers > 0"),
        ("gg1e999", "got shape inf"),
        ("outliers1.5", "got share 1.5 in 'outliers1.5', accepted: finite numbers > 0 and <= 1"),
        ("laplace2", "'laplace2' with 1 parameters, accepted: none"),
        ("outliers0.1x2x3", "with 3 parameters, accepted: share, factor"),
        ("gg-1", "name: got 'gg-1'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        distribution(name, 4, np.random.default_rng(0))


def test_an_unknown_distribution_names_the_nearest():
    with pytest.raises(ValueError, match=r"name: got 'student-t3'.*did you mean 'student_t3'"):
        distribution("student-t3", 4, np.random.default_rng(0))


def test_a_seed_in_place_of_a_generator_is_refused():
    with pytest.raises(TypeError, match=r"rng: got int, accepted: numpy\.random\.Generator"):
        distribution("normal", 4, 0)
